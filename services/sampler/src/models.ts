/** Which models are in memory, and where a job's U-Net and precision come from. */
import { statSync } from 'node:fs';
import { create } from '@bufbuild/protobuf';
import { SpindleError } from '@spindle/kit';
import { runPrecision, unetSource, type ArtifactStore } from '@spindle/mesh';
import { ModelCache, type PrecisionChoice } from '@spindle/models';
import { type ModelSourceDto, type NativePrecision } from '@spindle/native';
import { UnetRefSchema, type Precision, type UnetRef } from '@spindle/proto';
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

  /** The run's precision; what "auto" means is measured at most once by this process. */
  async precision(runId: string, asked: Precision): Promise<NativePrecision> {
    return (await runPrecision(this.#store, runId, asked, () => this.#measure())).precision;
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
    const named = create(UnetRefSchema, { path: `${pipelinePath}/unet` });
    const wanted = ref === undefined || isUnnamed(ref) ? named : ref;
    const source = await unetSource(wanted, this.#store, (path) => this.#engine.unetSource(path));
    if (wanted.config !== undefined && wanted.weights !== undefined) {
      return { key: `${wanted.config.digest} ${wanted.weights.digest}`, source };
    }
    // A folder can change behind its name while the process lives.
    const state = source.weights.map((file) => {
      const info = statSync(file, { throwIfNoEntry: false });
      return `${info?.size}@${info?.mtimeMs}`;
    });
    const adapter = wanted.adapter?.digest ?? '';
    return { key: `${wanted.path} ${adapter} ${state.join(' ')}`, source };
  }
}

/** Whether a reference names nothing: the pipeline's own U-Net is meant then. */
function isUnnamed({ path, config, weights }: UnetRef): boolean {
  return path === '' && (config === undefined || weights === undefined);
}
