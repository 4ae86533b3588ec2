/**
 * README.md of an exported model, as the hub and diffusers have it: what it is, how it came about,
 * what it scores, how to load it.
 */
import { basename } from 'node:path';
import { promptFiles } from '../config/prompt-files.js';
import { trainingOf } from '../config/resolve.js';
import { modelName as pipelineName } from '@spindle/kit';
import type { RunConfig, Training } from '../config/schema.js';
import { strengthOf } from '../config/schema/sampling.js';
import { iterationOf, modelName, type Model } from '../domain/model.js';
import { forIteration } from '../domain/per-iteration.js';
import { opponentOf, type RunPlan } from '../domain/plan.js';

/**
 * One model's numbers by one metric, as report.json has them; intervals are missing in what older
 * versions left.
 */
export interface CardStatistics {
  mean: number;
  mean_low?: number | undefined;
  mean_high?: number | undefined;
  median: number;
  standard_error: number;
  win_rate: number;
  difference_low: number;
  difference_high: number;
  p_value?: number | undefined;
  p_corrected?: number | undefined;
  n: number;
}

export interface CardInput {
  runId: string;
  model: Model;
  config: RunConfig;
  plan: RunPlan;
  resolution: number;
  /** Whole pipeline, or the U-Net alone. */
  whole: boolean;
  /** Models with their statistics by metric; the base first. Empty without evaluation. */
  models: { name: string; metrics: Record<string, CardStatistics> }[];
  /** How each metric's judge is described; empty where it is not known. */
  judges: Record<string, string>;
  warnings: readonly string[];
}

/** The file with every setting that lies beside the card. */
export const configFile = 'spindle-config.json';

export function modelCard(input: CardInput): string {
  return [
    frontMatter(input),
    `# ${input.runId}: ${modelName(input.model)}`,
    about(input),
    loading(input),
    settings(input),
    scores(input),
    notes(input),
  ]
    .filter((part) => part !== '')
    .join('\n\n')
    .concat('\n');
}

/** Folders' names only: where files lay on a machine is nobody's business. */
function nameOf(path: string): string {
  return basename(path.replace(/\/+$/, ''));
}

function frontMatter({ config, model }: CardInput): string {
  const tags = [
    'text-to-image',
    'stable-diffusion',
    'diffusers',
    'spindle',
    ...(iterationOf(model) > 0 ? ['spin-diffusion', 'self-play'] : [modelName(model)]),
  ];
  return [
    '---',
    `base_model: ${JSON.stringify(pipelineName(config.model).name)}`,
    'library_name: diffusers',
    'pipeline_tag: text-to-image',
    'tags:',
    ...tags.map((tag) => `- ${tag}`),
    '---',
  ].join('\n');
}

function about({ config, plan, model }: CardInput): string {
  const from = `\`${pipelineName(config.model).name}\``;
  switch (model.kind) {
    case 'base':
      return `${from}, as it was before the run.`;
    case 'sft':
      return `${from}, fine-tuned on the images alone (SFT): a baseline of a Spindle run.`;
    case 'dpo':
      return `${from}, trained on preference pairs (Diffusion-DPO): a baseline of a Spindle run.`;
    case 'spin':
    case 'ema': {
      const opponent = modelName(opponentOf(plan, model.iteration));
      return (
        `Iteration ${model.iteration} of ${config.iterations} of self-play fine-tuning ` +
        `([SPIN-Diffusion](https://arxiv.org/abs/2402.10210)) of ${from}: trained to tell the ` +
        `real images of the data set from those that its opponent \`${opponent}\` drew for the ` +
        'same captions.'
      );
    }
  }
}

function loading({ whole, resolution, config }: CardInput): string {
  const base = pipelineName(config.model);
  const variant = base.variant === undefined ? '' : `variant=${JSON.stringify(base.variant)}, `;
  const lines = whole
    ? [
        'from diffusers import DiffusionPipeline',
        '',
        'pipe = DiffusionPipeline.from_pretrained("path/to/this/folder")',
      ]
    : [
        'from diffusers import DiffusionPipeline, UNet2DConditionModel',
        '',
        'unet = UNet2DConditionModel.from_pretrained("path/to/this/folder")',
        `pipe = DiffusionPipeline.from_pretrained("path/to/${base.name}", ${variant}unet=unet)`,
      ];
  const { steps, guidance_scale: guidance } = config.sampling;
  const call =
    `pipe("a caption", num_inference_steps=${steps}, guidance_scale=${guidance}, ` +
    `height=${resolution}, width=${resolution}).images[0]`;
  const spindle = whole
    ? [
        '',
        'Without Python: `npx spindle sample --model path/to/this/folder --prompt "a caption" ' +
          '--seed 1 --out image.png`.',
      ]
    : [];
  return [
    '## How to load it',
    '',
    '```python',
    ...lines,
    `image = ${call}`,
    '```',
    ...spindle,
  ].join('\n');
}

function settings({ config, plan, model, resolution, runId }: CardInput): string {
  const k = iterationOf(model);
  const train = trainingOf(config, model);
  const objective = config.objective;
  const base = pipelineName(config.model);
  const strength = strengthOf(config.sampling);
  const rows: [string, string][] = [
    [
      'base model',
      base.variant === undefined ? base.name : `${base.name}, variant ${base.variant}`,
    ],
    ['data', `${nameOf(config.data.path)}: ${plan.rows} images, ${resolution} × ${resolution}`],
    ...(k > 0
      ? ([
          ['objective', objectiveText(objective)],
          ['β', String(forIteration(objective.beta, k))],
          ['images per prompt of the opponent', String(plan.imagesPerPrompt)],
        ] as [string, string][])
      : []),
    ...(train ? optimiserRows(config, train, k) : []),
    [
      'sampling',
      `${config.sampling.scheduler ?? "the model's scheduler"}, ${config.sampling.steps} ` +
        `steps, guidance ${config.sampling.guidance_scale}`,
    ],
    ...(k > 0 && strength !== undefined
      ? ([['opponent draws from', `the real images, at strength ${strength}`]] as [
          string,
          string,
        ][])
      : []),
    ['precision', config.precision],
    ['seed', String(config.seed)],
  ];
  return [
    '## How it was made',
    '',
    '| | |',
    '|---|---|',
    ...rows.map(([key, value]) => `| ${key} | ${value} |`),
    '',
    `Every setting is in [${configFile}](${configFile}). Run \`${runId}\`, made with Spindle.`,
  ].join('\n');
}

/** Configs of older runs lack the keys behind the loss. */
function objectiveText({
  loss,
  timesteps_per_pair: timesteps,
  timestep_weight: weight,
  keep_if: keepIf,
}: Partial<RunConfig['objective']>): string {
  return [
    `SPIN, ${loss} loss`,
    ...(timesteps !== undefined && timesteps > 1 ? [`${timesteps} timesteps per pair`] : []),
    ...(weight !== undefined && weight !== 'constant' ? [`timestep weight ${weight}`] : []),
    ...(keepIf
      ? [`pairs that ${keepIf.metric} scores at most ${keepIf.margin} higher as drawn`]
      : []),
  ].join(', ');
}

/** An iteration's settings are its own; steps are those of all iterations up to it. */
function optimiserRows(config: RunConfig, train: Training, k: number): [string, string][] {
  const steps = Array.from({ length: k }, (_, i) => forIteration(config.train.steps, i + 1));
  return [
    ['steps', k > 1 ? `${steps.join(', ')} in iterations 1 to ${k}` : String(train.steps)],
    ['batch size', String(train.batch_size)],
    [
      'learning rate',
      `${train.learning_rate}, ${train.schedule}, ${train.warmup_steps} steps of warm-up`,
    ],
    [
      'AdamW',
      `β ${train.adam_beta1}, ${train.adam_beta2}; ε ${train.adam_epsilon}; weight decay ` +
        `${train.weight_decay}; gradients clipped to ${train.max_grad_norm}`,
    ],
  ];
}

/** Reports of before have no corrected values. */
function pText({ p_value: p, p_corrected: corrected }: CardStatistics): string {
  if (p === undefined) return '';
  return corrected === undefined || corrected === p
    ? p.toPrecision(2)
    : `${p.toPrecision(2)} (corrected ${corrected.toPrecision(2)})`;
}

function scores({ models, judges, model, config, plan }: CardInput): string {
  const own = modelName(model);
  const metrics = [...new Set(models.flatMap((one) => Object.keys(one.metrics)))];
  if (metrics.length === 0)
    return '## Scores\n\nThe run had no judges: nothing is known of how this model compares.';
  const tables = metrics.flatMap((metric) => {
    const rows = models.flatMap(({ name, metrics: all }, position) => {
      const s = all[metric];
      if (s === undefined) return [];
      const interval =
        s.mean_low === undefined || s.mean_high === undefined
          ? ''
          : ` (${s.mean_low.toFixed(3)} to ${s.mean_high.toFixed(3)})`;
      const versus =
        position === 0
          ? ' | |'
          : `${(100 * s.win_rate).toFixed(1)} % | ${s.difference_low.toFixed(3)} to ` +
            `${s.difference_high.toFixed(3)} | ${pText(s)}`;
      return (
        `| ${name === own ? `**${name}**` : name} | ${s.mean.toFixed(3)}${interval} | ` +
        `${s.median.toFixed(3)} | ${position === 0 ? ' | | ' : versus} | ${s.n} |`
      );
    });
    const judge = judges[metric];
    return [
      `### ${metric}`,
      '',
      ...(judge === undefined ? [] : [judge, '']),
      '| model | mean (95 %) | median | win rate vs base | difference to base (95 %) | p | ' +
        'prompts |',
      '|---|---|---|---|---|---|---|',
      ...rows,
      '',
    ];
  });
  const images = plan.evaluationImages ?? 1;
  const names = promptFiles(config.evaluation?.prompts ?? '').map(
    ({ file }) => `\`${nameOf(file)}\``,
  );
  return [
    '## Scores',
    '',
    `On held-out prompts of ${names.join(', ')}, ${images} ` +
      `image${images === 1 ? '' : 's'} each, with the same seeds for every model. Intervals are ` +
      'bootstraps over prompts; p is a paired randomisation test.',
    '',
    ...tables,
  ]
    .join('\n')
    .trimEnd();
}

function notes({ warnings }: CardInput): string {
  if (warnings.length === 0) return '';
  return ['## Notes of the run', '', ...warnings.map((warning) => `- ${warning}`)].join('\n');
}
