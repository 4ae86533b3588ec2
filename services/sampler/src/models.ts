/** Which models are in memory, and where a job's U-Net and precision come from. */
import { create } from '@bufbuild/protobuf';
import { SpindleError } from '@spindle/kit';
import {
  checkRunFiles,
  runPrecision,
  unchanged,
  unetSource,
  type ArtifactStore,
} from '@spindle/mesh';
import { ModelCache, pipelineFiles, unetFiles, type PrecisionChoice } from '@spindle/models';
import { type NativePrecision } from '@spindle/native';
import { UnetRefSchema, type Precision, type UnetRef } from '@spindle/proto';
import type { LoadedPipeline, LoadedUnet, SamplerEngine } from './engine.js';

// A new iteration's sampling runs beside the evaluation of another model.
const unetsKept = 2;
const pipelinesKept = 2;

/** A pipeline's folder, and the run that uses it; no run is "". */
interface RunFolder {
  directory: string;
  runId: string;
}

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

  /** FAILED_PRECONDITION where its files are not those that the run began with. */
  async withPipeline<T>(
    { directory, runId }: RunFolder,
    precision: NativePrecision,
    work: (pipeline: LoadedPipeline) => Promise<T>,
  ): Promise<T> {
    if (directory === '')
      throw new SpindleError('INVALID_ARGUMENT', 'pipeline_path: expected a folder, got nothing');
    const { files, state } = await this.checkPipeline({ directory, runId });
    return this.#pipelines.use(
      `${precision} ${directory} ${state}`,
      () => unchanged(files, state, () => this.#engine.loadPipeline(directory, precision)),
      work,
    );
  }

  /** FAILED_PRECONDITION where its files are not those that the run began with. */
  async checkPipeline({
    directory,
    runId,
  }: RunFolder): Promise<{ files: string[]; state: string }> {
    const files = pipelineFiles(directory);
    const state = await checkRunFiles(this.#store, runId, `pipeline ${directory}`, files);
    return { files, state };
  }

  /** FAILED_PRECONDITION where its files are not those that the run began with. */
  async withUnet<T>(
    ref: UnetRef | undefined,
    { directory, runId }: RunFolder,
    precision: NativePrecision,
    work: (unet: LoadedUnet) => Promise<T>,
  ): Promise<T> {
    const named = create(UnetRefSchema, { path: `${directory}/unet` });
    const wanted = ref === undefined || isUnnamed(ref) ? named : ref;
    const blobs = wanted.config !== undefined && wanted.weights !== undefined;
    const files = blobs ? [] : unetFiles(wanted.path);
    const state = blobs
      ? `${wanted.config?.digest} ${wanted.weights?.digest}`
      : await checkRunFiles(this.#store, runId, `unet ${wanted.path}`, files);
    const source = await unetSource(wanted, this.#store, (path) => this.#engine.unetSource(path));
    return this.#unets.use(
      `${precision} ${wanted.path} ${wanted.adapter?.digest ?? ''} ${state}`,
      () => unchanged(files, blobs ? '' : state, () => this.#engine.loadUnet(source, precision)),
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
}

/** Whether a reference names nothing: the pipeline's own U-Net is meant then. */
function isUnnamed({ path, config, weights }: UnetRef): boolean {
  return path === '' && (config === undefined || weights === undefined);
}
