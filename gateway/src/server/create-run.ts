/**
 * From a config to a run: everything that can be wrong is found here, before anything is stored.
 */
import { create } from '@bufbuild/protobuf';
import { randomBytes } from 'node:crypto';
import {
  InspectModelRequestSchema,
  type InspectModelResponse,
  type SamplingSettings,
} from '@spindle/proto';
import { SpindleError } from '@spindle/kit';
import type { ArtifactStore } from '@spindle/mesh';
import { dpoTraining, evaluationSampling, sftTraining } from '../config/resolve.js';
import { writePromptList, type Files, type ImageSize } from '@spindle/data';
import type { RunConfig, SamplingConfig } from '../config/schema.js';
import type { JudgedTrainings, Judging } from '../domain/judging.js';
import type { DrawnAsRead, RunPlan } from '../domain/plan.js';
import { initialState, stateSchemaVersion } from '../domain/state.js';
import { bucketSizes, samplingSettings } from '../orchestrator/jobs.js';
import type { SamplerPort, ScorerPort } from '../orchestrator/ports.js';
import type { RunRecord } from '../orchestrator/record.js';
import { toBlob } from '../orchestrator/wire.js';
import { checkJudges } from './check-judges.js';
import type { CheckedRun } from './checked-run.js';
import { dataSpec, longTexts, readDataSet, type DataSet } from './dataset.js';
import { readHeldOut } from './held-out.js';
import { inspecting } from './inspecting.js';
import { describePlan } from './plan-text.js';

const pipelineKinds = ['StableDiffusionPipeline', 'StableDiffusionXLPipeline'];

export interface CheckPorts {
  sampler: SamplerPort;
  scorer: ScorerPort;
  store: ArtifactStore;
  files: Files;
}

/** The caller disposes of `data`. */
export async function checkRun(
  config: RunConfig,
  runId: string,
  ports: CheckPorts,
  signal: AbortSignal,
): Promise<CheckedRun> {
  const { sampler } = ports;
  const model = await inspect(sampler, config.model, 'model', signal);
  if (!pipelineKinds.includes(model.kind)) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `model: ${config.model}: expected a ${pipelineKinds.join(' or ')}, got ${model.kind}.`,
    );
  }
  const resolution = config.data.resolution ?? model.sampleSize * model.vaeScale;
  if (resolution === 0)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      "data.resolution: expected a number of pixels, since the model's sample_size is two " +
        'numbers that differ; got nothing.',
    );
  if (resolution % model.vaeScale !== 0) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `data.resolution: expected a multiple of the VAE's ${model.vaeScale}, got ${resolution}.`,
    );
  }
  const sizes = checkBuckets(config, resolution, model);
  checkTimesteps(config, model);
  checkLora(config, model);
  await checkSampling(config, resolution, sampler, signal);
  const { prompts, select, warnings: promptWarnings } = await readHeldOut(config, ports.files);
  const judgeWarnings = await checkJudges(config, ports.scorer, signal);
  const data = await readDataSet(dataSpec(config.data), ports, {
    limit: config.data.limit,
    textTokens: model.textTokens,
    // Rejected images are encoded only where something trains on them.
    pairs: config.baselines.dpo !== undefined,
    heldOut: prompts.map(({ prompt }) => prompt),
  });
  const plan = planOf(config, runId, data.rows, { all: prompts.length, select });
  if (plan.judging && select === 0)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'train.judge_every: expected evaluation.select.prompts, or at least 10 evaluation.prompts ' +
        `of which a fifth is set apart, got ${prompts.length} that are all reported.`,
    );
  const warnings = [
    ...model.warnings.map((warning) => `model: ${warning}`),
    ...judgeWarnings,
    ...data.warnings,
    ...promptWarnings,
    ...checkPairs(config, data),
  ];
  const batch = Math.max(...[config.train.batch_size].flat());
  if (batch > data.rows) {
    warnings.push(
      `train.batch_size: ${batch} is more than the ${data.rows} rows of the ` +
        'data set; rows repeat within a batch.',
    );
  }
  const long = longTexts(
    prompts.map(({ prompt }) => prompt),
    model.textTokens,
  );
  if (long > 0) {
    warnings.push(
      `evaluation.prompts: at least ${long} prompts are longer than the text encoder's ` +
        `${model.textTokens} tokens; they will be cut.`,
    );
  }
  const checked = { config, plan, resolution, sizes, model, data, prompts, warnings };
  return { ...checked, text: describePlan(checked) };
}

/** The buckets' sizes: such as pass through every level of the models evenly. */
function checkBuckets(
  { data }: RunConfig,
  resolution: number,
  { vaeScale, unetScale }: InspectModelResponse,
): ImageSize[] {
  if (!data.buckets) return [];
  const { step } = data.buckets;
  const least = vaeScale * unetScale;
  if (least === 0 || step % least !== 0)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `data.buckets.step: expected a multiple of ${least} (the VAE's ${vaeScale} times the ` +
        `U-Net's ${unetScale}), got ${step}.`,
    );
  if (resolution % step !== 0)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `data.resolution: expected a multiple of data.buckets.step ${step}, got ${resolution}.`,
    );
  return bucketSizes(data.buckets, resolution);
}

/** What the model's noise schedule does not have is refused before anything is drawn. */
function checkTimesteps(
  config: RunConfig,
  { trainTimesteps, endsInNoise, predictionType }: InspectModelResponse,
): void {
  const dpo = dpoTraining(config);
  for (const [key, training] of [
    ['objective', config.objective] as const,
    ...(dpo ? [['baselines.dpo', dpo] as const] : []),
  ]) {
    const { timesteps_per_pair: timesteps, timestep_weight: weight } = training;
    if (trainTimesteps > 0 && timesteps > trainTimesteps)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${key}.timesteps_per_pair: expected at most the model's ${trainTimesteps} timesteps, ` +
          `got ${timesteps}.`,
      );
    if (weight === 'paper' && endsInNoise && predictionType === 'epsilon')
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${key}.timestep_weight: expected constant or min_snr for a model that predicts noise ` +
          'where its schedule ends in noise alone (rescale_betas_zero_snr), got paper.',
      );
  }
}

/** Preference pairs are asked for by the baseline alone. */
function checkPairs(config: RunConfig, { rows, pairs }: DataSet): string[] {
  if (!config.baselines.dpo) return [];
  if (pairs === 0)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `baselines.dpo: expected rows with a rejected image in ${config.data.path}, got none.`,
    );
  return pairs === rows
    ? []
    : [
        `baselines.dpo: ${rows - pairs} of ${rows} rows have no rejected image; it trains on ` +
          `the other ${pairs}.`,
      ];
}

/** What the model's scheduler cannot do as the config says is refused before the first job. */
/** A layer that is not there is told now, and not once the opponent's images are drawn. */
function checkLora(config: RunConfig, { linearLayers }: InspectModelResponse): void {
  if (linearLayers.length === 0) return;
  const { sft, dpo } = config.baselines;
  for (const [key, lora] of [
    ['train', config.train.lora] as const,
    ['baselines.sft', sft?.lora] as const,
    ['baselines.dpo', dpo?.lora] as const,
  ])
    for (const target of lora?.targets ?? []) {
      if (linearLayers.some((name) => name === target || name.endsWith(`.${target}`))) continue;
      const known = [...new Set(linearLayers.map((name) => name.split('.').at(-1) ?? name))];
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${key}.lora.targets: expected names of linear layers of the U-Net ` +
          `(${known.filter((name) => !/^\d+$/.test(name)).join(', ')}), got "${target}".`,
      );
    }
}

async function checkSampling(
  config: RunConfig,
  resolution: number,
  sampler: SamplerPort,
  signal: AbortSignal,
): Promise<void> {
  const check = (key: string, sampling: SamplingConfig) =>
    inspect(sampler, config.model, key, signal, samplingSettings(sampling, resolution));
  await check('sampling', config.sampling);
  if (config.evaluation) await check('evaluation.sampling', evaluationSampling(config));
}

function inspect(
  sampler: SamplerPort,
  path: string,
  key: string,
  signal: AbortSignal,
  sampling?: SamplingSettings,
): Promise<InspectModelResponse> {
  const request = create(InspectModelRequestSchema, { path, ...(sampling && { sampling }) });
  return inspecting(key, path, (options) => sampler.inspectModel(request, options), signal);
}

/** The plan of a run; `rows` and the held-out prompts are what the data has. */
export function planOf(
  config: RunConfig,
  runId: string,
  rows: number,
  prompts: { all: number; select: number },
): RunPlan {
  const metrics = (config.evaluation?.metrics ?? []).map((metric) => metric.name);
  const [first] = metrics;
  const sft = sftTraining(config);
  const dpo = dpoTraining(config);
  return {
    runId,
    seed: config.seed,
    iterations: config.iterations,
    sft: sft !== undefined,
    dpo: dpo !== undefined,
    opponent: config.objective.opponent,
    rows,
    imagesPerPrompt: config.sampling.images_per_prompt,
    evaluationPrompts: prompts.all,
    ...(prompts.select > 0 &&
      first !== undefined && {
        select: { prompts: prompts.select, metric: config.evaluation?.select.metric ?? first },
      }),
    evaluationImages: config.evaluation?.images_per_prompt ?? 1,
    evaluationSeed: config.evaluation?.seed ?? 0,
    metrics,
    stop:
      config.stop && first !== undefined
        ? { metric: config.stop.metric ?? first, patience: config.stop.patience }
        : null,
    sharedDevice: config.resources.shared_device,
    encodeShardSize: config.resources.encode_shard_size,
    sampleShardSize: config.sampling.shard_size,
    ...(readOnce(config) && { asRead: asRead(config) }),
    ...(config.objective.keep_if && { keepIf: config.objective.keep_if }),
    ...judgedTrainings(config, prompts.select),
    trainSteps: config.train.steps,
    sftSteps: sft?.steps ?? 0,
    dpoSteps: dpo?.steps ?? 0,
    maxMissing: config.max_missing,
  };
}

function judgedTrainings(config: RunConfig, select: number): { judging?: JudgedTrainings } {
  const { train } = config;
  const trainings = { sft: sftTraining(config), dpo: dpoTraining(config), spin: train };
  const judging: JudgedTrainings = {};
  for (const kind of ['sft', 'dpo', 'spin'] as const) {
    const { judge_every: every = 0, judge_prompts = 0, keep = 'last' } = trainings[kind] ?? {};
    const judged: Judging = { every, prompts: Math.min(judge_prompts, select), keep };
    if ([every].flat().some((steps) => steps > 0)) judging[kind] = judged;
  }
  return Object.keys(judging).length === 0 ? {} : { judging };
}

/** Whether each opponent's images are read by one iteration alone. */
function readOnce({ objective, sampling }: RunConfig): boolean {
  return (
    (objective.opponent === 'previous' || objective.opponent === 'ema') &&
    sampling.previous_share === 0
  );
}

function asRead({ train, data, sampling }: RunConfig): DrawnAsRead {
  return {
    batchSize: train.batch_size,
    views: sampling.generated === 'pixels' ? data.views : 1,
  };
}

/** Puts the run's texts into the store and makes the record that the orchestrator drives. */
export async function buildRecord(
  checked: CheckedRun,
  store: ArtifactStore,
  trace: Record<string, string>,
): Promise<RunRecord> {
  const { config, plan, resolution, data, prompts, warnings } = checked;
  const manifest = await store.putFile(data.manifest, 'application/jsonl', { move: true });
  const promptBlob =
    prompts.length > 0
      ? await store.put(Buffer.from(writePromptList(prompts)), 'application/json')
      : null;
  const state = initialState(plan, Date.now());
  state.warnings.push(...warnings);
  return {
    schemaVersion: stateSchemaVersion,
    version: 1,
    runId: plan.runId,
    config,
    resolution,
    manifest: toBlob(manifest),
    prompts: promptBlob && toBlob(promptBlob),
    stamped: true,
    trace,
    state,
  };
}

const runIdPattern = /^[a-z0-9][a-z0-9-]{0,62}$/;
/** Names that the artifacts folder itself uses. */
const reserved = new Set(['store', 'nats', 'logs']);

export function chooseRunId(asked: string, name: string, inUse: (id: string) => boolean): string {
  if (asked !== '') {
    if (!runIdPattern.test(asked) || reserved.has(asked)) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        'run_id: expected up to 63 lower-case letters, digits and ' +
          `"-"${reserved.has(asked) ? `, none of ${[...reserved].join(', ')}` : ''}, got ` +
          `"${asked}".`,
      );
    }
    if (inUse(asked))
      throw new SpindleError(
        'ALREADY_EXISTS',
        `run_id: expected an id that is not in use, got "${asked}".`,
      );
    return asked;
  }
  const day = new Date().toISOString().slice(0, 10).replaceAll('-', '');
  for (;;) {
    const id = `${name}-${day}-${randomBytes(2).toString('hex')}`;
    if (!inUse(id)) return id;
  }
}
