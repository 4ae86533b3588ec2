/** One call of Train: what all of its attempts have in common. */
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Logger } from '@spindle/kit';
import type { ArtifactStore } from '@spindle/mesh';
import type { TrainRequest, TrainResponseSchema } from '@spindle/proto';
import type { Checkpoints } from './checkpoints.js';
import type { TrainingSettings } from './domain/settings.js';
import type { TrainerEngine } from './engine.js';
import type { Instruments } from './instruments.js';
import type { Ranks } from './ranks/ranks.js';

export interface TrainingDeps {
  ranks: Ranks;
  store: ArtifactStore;
  engine: TrainerEngine;
  instruments: Instruments;
  logger: Logger;
}

export type Response = MessageInitShape<typeof TrainResponseSchema>;

export interface TrainCall {
  request: TrainRequest;
  settings: TrainingSettings;
  checkpoints: Checkpoints;
  deps: TrainingDeps;
  /** Aborts when the caller, the process or the lease is gone. */
  signal: AbortSignal;
  /** Whether this process is still the one that may write checkpoints and the result. */
  isOwner: () => boolean;
  /**
   * The same for a last word: also true where the lease was lost for want of the message server
   * alone, and nobody else has begun.
   */
  mayFinish: () => Promise<boolean>;
  /** performance.now() when the call began. */
  began: number;
}
