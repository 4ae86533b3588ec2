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
import {
  loraParts,
  ModelCache,
  pipelineFiles,
  unetFiles,
  type LoraFile,
  type PrecisionChoice,
} from '@spindle/models';
import { type NativePrecision } from '@spindle/native';
import { UnetRefSchema, type Precision, type UnetRef } from '@spindle/proto';
import type { LoadedPipeline, LoadedUnet, SamplerEngine } from './engine.js';

// A new iteration's sampling runs beside the evaluation of another model.
const unetsKept = 2;
const pipelinesKept = 2;

/** A pipeline's folder, LoRA files on top of it, and the run that uses it; no run is "". */
interface RunFolder {
  directory: string;
  runId: string;
  lora?: readonly LoraFile[];
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
    { directory, runId, lora = [] }: RunFolder,
    precision: NativePrecision,
    work: (pipeline: LoadedPipeline) => Promise<T>,
  ): Promise<T> {
    if (directory === '')
      throw new SpindleError('INVALID_ARGUMENT', 'pipeline_path: expected a folder, got nothing');
    const { files, state } = await this.checkPipeline({ directory, runId, lora });
    return this.#pipelines.use(
      `${precision} ${directory}${loraName(lora)} ${state}`,
      () => unchanged(files, state, () => this.#engine.loadPipeline(directory, precision, lora)),
      work,
    );
  }

  /** FAILED_PRECONDITION where its files are not those that the run began with. */
  async checkPipeline({
    directory,
    runId,
    lora = [],
  }: RunFolder): Promise<{ files: string[]; state: string }> {
    const files = [...pipelineFiles(directory), ...lora.flatMap(({ path }) => loraParts(path))];
    const part = `pipeline ${directory}${loraName(lora)}`;
    const state = await checkRunFiles(this.#store, runId, part, files);
    return { files, state };
  }

  /** FAILED_PRECONDITION where its files are not those that the run began with. */
  async withUnet<T>(
    ref: UnetRef | undefined,
    { directory, runId, lora = [] }: RunFolder,
    precision: NativePrecision,
    work: (unet: LoadedUnet) => Promise<T>,
  ): Promise<T> {
    const named = create(UnetRefSchema, { path: `${directory}/unet` });
    const wanted = ref === undefined || isUnnamed(ref) ? named : ref;
    const blobs = wanted.config !== undefined && wanted.weights !== undefined;
    const files = [
      ...(blobs ? [] : unetFiles(wanted.path)),
      ...lora.flatMap(({ path }) => loraParts(path)),
    ];
    const part = `unet ${wanted.path}${loraName(lora)}`;
    const state =
      blobs && lora.length === 0 ? '' : await checkRunFiles(this.#store, runId, part, files);
    const plain = await unetSource(wanted, this.#store, (path) => this.#engine.unetSource(path));
    const source = lora.length === 0 ? plain : this.#engine.adaptedUnet(directory, plain, lora);
    const digests = [wanted.config, wanted.weights, wanted.adapter].map((blob) => blob?.digest);
    return this.#unets.use(
      `${precision} ${wanted.path}${loraName(lora)} ${digests.join(' ')} ${state}`,
      () => unchanged(files, state, () => this.#engine.loadUnet(source, precision)),
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

/** A part's name in notes of files: without LoRA files it is what it was before there were any. */
function loraName(lora: readonly LoraFile[]): string {
  return lora.map(({ path, scale }) => ` + ${path}:${scale}`).join('');
}

/** Whether a reference names nothing: the pipeline's own U-Net is meant then. */
function isUnnamed({ path, config, weights }: UnetRef): boolean {
  return path === '' && (config === undefined || weights === undefined);
}
