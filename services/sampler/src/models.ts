/** Which models are in memory, and where a job's U-Net and precision come from. */
import { statSync } from 'node:fs';
import { SpindleError } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import { ModelCache, type PrecisionChoice } from '@spindle/models';
import { type ModelSourceDto, type NativePrecision } from '@spindle/native';
import { Precision, type UnetRef } from '@spindle/proto';
import type { LoadedPipeline, LoadedUnet, SamplerEngine } from './engine.js';

// A new iteration's sampling runs beside the evaluation of another model.
const unetsKept = 2;
const pipelinesKept = 2;

export class Models {
  readonly #engine: SamplerEngine;
  readonly #store: ArtifactStore;
  readonly #pipelines = new ModelCache<LoadedPipeline>(pipelinesKept);
  readonly #unets = new ModelCache<LoadedUnet>(unetsKept);
  #measured: Promise<PrecisionChoice> | undefined;

  constructor(engine: SamplerEngine, store: ArtifactStore) {
    this.#engine = engine;
    this.#store = store;
  }

  withPipeline<T>(
    directory: string,
    precision: NativePrecision,
    work: (pipeline: LoadedPipeline) => Promise<T>,
  ): Promise<T> {
    if (directory === '')
      throw new SpindleError('INVALID_ARGUMENT', 'pipeline_path: expected a folder, got nothing');
    return this.#pipelines.use(
      `${precision} ${directory}`,
      () => this.#engine.loadPipeline(directory, precision),
      work,
    );
  }

  async withUnet<T>(
    ref: UnetRef | undefined,
    pipelinePath: string,
    precision: NativePrecision,
    work: (unet: LoadedUnet) => Promise<T>,
  ): Promise<T> {
    const { key, source } = await this.#unetSource(ref, pipelinePath);
    return this.#unets.use(
      `${precision} ${key}`,
      () => this.#engine.loadUnet(source, precision),
      work,
    );
  }

  /**
   * "auto" is measured once, and its answer is kept under "<run>/precision" in the store: the first
   * process to ask decides for the whole run, so that no image or weight depends on a second
   * measurement.
   */
  async precision(runId: string, asked: Precision): Promise<NativePrecision> {
    if (asked === Precision.FLOAT32) return 'float32';
    if (asked === Precision.BFLOAT16) return 'bfloat16';
    const key = `${runId}/precision`;
    const kept = runId === '' ? null : await this.#store.getResult(key);
    if (kept !== null) return parseChoice(kept, key).precision;
    const choice = await this.#measure();
    if (
      runId === '' ||
      (await this.#store.commitResult(key, JSON.stringify(choice))) === 'committed'
    )
      return choice.precision;
    return parseChoice((await this.#store.getResult(key)) ?? '', key).precision;
  }

  /** Measured once per process; a measurement that failed is not kept. */
  async #measure(): Promise<PrecisionChoice> {
    try {
      return await (this.#measured ??= this.#engine.choosePrecision());
    } catch (error) {
      this.#measured = undefined;
      throw error;
    }
  }

  release(): void {
    this.#pipelines.clear();
    this.#unets.clear();
  }

  async #unetSource(
    ref: UnetRef | undefined,
    pipelinePath: string,
  ): Promise<{ key: string; source: ModelSourceDto }> {
    if (ref?.config !== undefined && ref.weights !== undefined) {
      const config = (await this.#store.get(ref.config)).toString('utf8');
      const source = {
        config,
        weights: [await this.#store.localPath(ref.weights)],
        label: `U-Net ${ref.name} (${ref.weights.digest})`,
      };
      return { key: `${ref.config.digest} ${ref.weights.digest}`, source };
    }
    const directory = ref === undefined || ref.path === '' ? `${pipelinePath}/unet` : ref.path;
    const source = this.#engine.unetSource(directory);
    // A folder can change behind its name while the process lives.
    const state = source.weights.map((file) => {
      const info = statSync(file, { throwIfNoEntry: false });
      return `${info?.size}@${info?.mtimeMs}`;
    });
    return { key: `${directory} ${state.join(' ')}`, source };
  }
}

function parseChoice(json: string, key: string): PrecisionChoice {
  const choice = JSON.parse(json) as Partial<PrecisionChoice>;
  if (choice.precision !== 'float32' && choice.precision !== 'bfloat16') {
    throw new SpindleError(
      'DATA_LOSS',
      `${key}: precision: expected float32 or bfloat16, got ${JSON.stringify(choice.precision)}`,
    );
  }
  return { precision: choice.precision, reason: choice.reason ?? '' };
}
