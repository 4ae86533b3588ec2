/** What the orchestrator needs from the outside. */
import type { Files } from '@spindle/data';
import type { Logger, ServiceClient } from '@spindle/kit';
import type { ArtifactStore, Bus } from '@spindle/mesh';
import type {
  EvaluatorService,
  SamplerService,
  ScorerService,
  TrainerService,
} from '@spindle/proto';

export type TrainerPort = ServiceClient<typeof TrainerService>;
export type EvaluatorPort = ServiceClient<typeof EvaluatorService>;
export type SamplerPort = ServiceClient<typeof SamplerService>;
export type ScorerPort = ServiceClient<typeof ScorerService>;

export interface OrchestratorPorts {
  bus: Bus;
  store: ArtifactStore;
  /** Where configs' data and prompts are read. */
  files: Files;
  /** The artifacts folder: <root>/<run>/ is for people, <root>/store for machines. */
  root: string;
  trainer: TrainerPort;
  evaluator: EvaluatorPort;
  logger: Logger;
  /** How often results and queues are compared with the state, whatever the events say. */
  rescanMs: number;
}
