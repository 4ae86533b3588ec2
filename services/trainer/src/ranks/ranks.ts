/** What a training asks of its ranks, whether there are others or not. */
import type { MessageInitShape } from '@bufbuild/protobuf';
import { SpindleError } from '@spindle/kit';
import type { RankGroupDto } from '@spindle/native';
import type { FollowResponseSchema, ReportRequest } from '@spindle/proto';

export type RankCommand = Exclude<
  MessageInitShape<typeof FollowResponseSchema>['command'],
  undefined
>;

/** A rank is gone or silent; the weights of rank 0 are those of its last complete step. */
export class RankLost extends SpindleError {
  constructor(message: string, options: { cause?: unknown } = {}) {
    super('UNAVAILABLE', message, options);
  }
}

export interface Ranks {
  readonly worldSize: number;
  /** Resolves when every rank follows. */
  complete(signal: AbortSignal): Promise<void>;
  /** A fresh group for the engines, as rank 0 sees it; null where this process trains alone. */
  newGroup(): RankGroupDto | null;
  /**
   * A collective call: gives every other rank the command, does this rank's own part, and resolves
   * when all are done. When one fails, the others are broken off, and the error is the one that
   * explains the others.
   */
  onAllRanks<T>(
    command: RankCommand,
    own: (signal: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<{ own: T; reports: ReportRequest[] }>;
  /** Lets go of the other ranks' models, whatever they are doing. */
  release(): void;
}

/** This process trains alone. */
export const soleRank: Ranks = {
  worldSize: 1,
  complete: async () => undefined,
  newGroup: () => null,
  onAllRanks: async (_command, own, signal) => ({ own: await own(signal), reports: [] }),
  release: () => undefined,
};
