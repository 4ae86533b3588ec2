/**
 * An engine whose "U-Net" is four numbers trained by momentum. Its state, its files and its
 * arithmetic are real and deterministic.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { asFloat32, fromFloat32, readSafetensors, writeSafetensors } from '@spindle/kit';
import type {
  ModelSourceDto,
  TrainBatchDto,
  TrainBatchResultDto,
  TrainErrorsDto,
  TrainerOptionsDto,
  TrainStepResultDto,
} from '@spindle/native';
import type { TrainerEngine, TrainingSession } from '../engine.js';

const parameters = 4;

export interface FakeEngine extends TrainerEngine {
  readonly log: string[];
  readonly sessions: FakeSession[];
  /** Whether errors of micro-batches come with the step, as from a device. */
  tellsLater: boolean;
  /** Runs before every micro-batch; may wait or throw. */
  beforeBatch: (batch: TrainBatchDto, signal: AbortSignal) => Promise<void>;
  beforeSave: (path: string) => Promise<void>;
  /** The loss of a whole step, from 0; `scale` is what the learning rate was multiplied by last. */
  lossOf: (step: number, scale: number) => number;
}

export function fakeEngine(): FakeEngine {
  const log: string[] = [];
  const engine: FakeEngine = {
    log,
    sessions: [],
    tellsLater: false,
    beforeBatch: async () => undefined,
    beforeSave: async () => undefined,
    lossOf: () => 1,
    info: {
      version: '0',
      backend: 'fake',
      isa: 'none',
      threads: 1,
      cpu: 'none',
      backends: ['fake'],
    },
    async choosePrecision() {
      log.push('measure');
      return { precision: 'bfloat16', reason: 'it was faster' };
    },
    describePipeline: () => ({ schedulerConfig: '{}', scalingFactor: 0.5, shiftFactor: 0 }),
    async emptyPrompt() {
      return { text: { data: new Float32Array(4).fill(-1), shape: [1, 2, 2] }, pooled: null };
    },
    unetSource: (directory): ModelSourceDto => ({
      config: `{"from":"${directory}"}`,
      weights: [],
      label: directory,
    }),
    async createSession(init, _opponent, options, _group) {
      const lora =
        options.lora &&
        ` lora ${options.lora.rank} on ` +
          (init.adapters?.map(({ path }) => path).join() ?? 'nothing');
      log.push(`session ${options.objective} ${options.precision}${lora ?? ''}`);
      const session = new FakeSession(engine, init.label.length, options);
      engine.sessions.push(session);
      return session;
    },
    close: () => undefined,
  };
  return engine;
}

export class FakeSession implements TrainingSession {
  #weights: Float32Array;
  #momentum: Float32Array = new Float32Array(parameters);
  #gradient = new Float32Array(parameters);
  /** What the caller last multiplied the learning rate by. */
  #scale = 1;
  #told: TrainErrorsDto[] = [];
  released = false;

  constructor(
    readonly engine: FakeEngine,
    start: number,
    readonly options: TrainerOptionsDto,
  ) {
    this.#weights = new Float32Array(parameters).fill(start);
  }

  async accumulate(batch: TrainBatchDto, signal: AbortSignal): Promise<TrainBatchResultDto> {
    await this.engine.beforeBatch(batch, signal);
    const size = batch.real.shape[0] ?? 0;
    const total = (values: Float32Array): number => values.reduce((sum, value) => sum + value, 0);
    for (let i = 0; i < parameters; i++) {
      const difference =
        total(batch.real.data) -
        total(batch.generated?.data ?? new Float32Array(0)) +
        total(batch.text.data) / (i + 1);
      this.#gradient[i] =
        (this.#gradient[i] ?? 0) +
        (difference * Math.sin(batch.step + i + batch.offset)) / batch.stepBatchSize;
    }
    const errors = (scale: number): Float32Array =>
      Float32Array.from({ length: size }, (_, i) => scale * (1 + i));
    const pairs = batch.generated !== null;
    const loss = (this.engine.lossOf(batch.step, this.#scale) * size) / batch.stepBatchSize;
    const told: TrainErrorsDto = {
      loss,
      loserScale: pairs ? size / batch.stepBatchSize : 0,
      errorReal: errors(0.005),
      errorGenerated: pairs ? errors(0.02) : new Float32Array(0),
      opponentErrorReal: pairs ? errors(0.01) : new Float32Array(0),
      opponentErrorGenerated: pairs ? errors(0.015) : new Float32Array(0),
    };
    const later = batch.later && this.engine.tellsLater;
    if (later) this.#told.push(told);
    return {
      errors: later ? null : told,
      phases: [{ name: 'forward', startMs: 0, durationMs: 1 }],
    };
  }

  async prefetch(): Promise<void> {}

  async apply(step: number, learningRateScale: number): Promise<TrainStepResultDto> {
    this.#scale = learningRateScale;
    const errors = this.#told;
    this.#told = [];
    for (const { loss } of errors) {
      if (!Number.isFinite(loss)) {
        throw Object.assign(new Error(`expected a finite loss, got ${loss}`), { code: 'DIVERGED' });
      }
    }
    const learningRate =
      learningRateScale * this.options.learningRate * (1 - step / this.options.totalSteps);
    let squares = 0;
    for (let i = 0; i < parameters; i++) {
      const gradient = this.#gradient[i] ?? 0;
      squares += gradient * gradient;
      this.#momentum[i] = 0.9 * (this.#momentum[i] ?? 0) + gradient;
      this.#weights[i] = (this.#weights[i] ?? 0) - learningRate * (this.#momentum[i] ?? 0);
    }
    this.#gradient.fill(0);
    return { gradNorm: Math.sqrt(squares), learningRate, errors, phases: [] };
  }

  async broadcastState(): Promise<void> {}
  async verifyRanks(): Promise<void> {}

  async saveState(path: string, metadata: Record<string, string>): Promise<void> {
    await this.engine.beforeSave(path);
    this.engine.log.push(`save ${metadata['step']}`);
    await writeFile(
      path,
      writeSafetensors(
        new Map([
          ['momentum', fromFloat32([parameters], this.#momentum)],
          ['weights', fromFloat32([parameters], this.#weights)],
        ]),
        metadata,
      ),
    );
  }

  async loadState(path: string): Promise<Record<string, string>> {
    const { tensors, metadata } = readSafetensors(await readFile(path), path);
    this.#weights = asFloat32(tensors.get('weights') ?? fromFloat32([0], new Float32Array(0)));
    this.#momentum = asFloat32(tensors.get('momentum') ?? fromFloat32([0], new Float32Array(0)));
    this.engine.log.push(`load ${metadata['step']}`);
    return metadata;
  }

  async export(path: string, averaged: boolean): Promise<void> {
    await this.engine.beforeSave(path);
    this.engine.log.push(averaged ? 'export average' : 'export');
    await writeFile(
      path,
      writeSafetensors(
        new Map([[averaged ? 'average' : 'weights', fromFloat32([parameters], this.#weights)]]),
      ),
    );
  }

  async exportAdapters(path: string, averaged: boolean): Promise<void> {
    const name = averaged ? 'average adapter' : 'adapter';
    await writeFile(
      path,
      writeSafetensors(new Map([[name, fromFloat32([parameters], this.#weights)]])),
    );
  }

  release(): void {
    this.released = true;
  }
}
