// The variants of `npm run ablate`, their configs, and the table of what they gave.
import { isAbsolute, resolve } from 'node:path';

/** One setting each, beside the demo's own ("plain"). `says` is for the table. */
export const variants = [
  { name: 'plain', says: 'the demo as it is', change: {} },
  {
    name: 'timesteps-4',
    says: 'objective.timesteps_per_pair: 4',
    change: { objective: { timesteps_per_pair: 4 } },
  },
  {
    name: 'weight-paper',
    says: 'objective.timestep_weight: paper',
    change: { objective: { timestep_weight: 'paper' } },
  },
  {
    name: 'weight-min-snr',
    says: 'objective.timestep_weight: min_snr',
    change: { objective: { timestep_weight: 'min_snr' } },
  },
  {
    name: 'paper-4',
    says: 'timestep_weight: paper, timesteps_per_pair: 4',
    change: { objective: { timestep_weight: 'paper', timesteps_per_pair: 4 } },
  },
  { name: 'hinge', says: 'objective.loss: hinge', change: { objective: { loss: 'hinge' } } },
  { name: 'ipo', says: 'objective.loss: ipo', change: { objective: { loss: 'ipo' } } },
  {
    name: 'keep-if',
    says: 'objective.keep_if by the first judge, margin 0',
    change: (config) => ({
      objective: { keep_if: { metric: config.evaluation.metrics[0].name, margin: 0 } },
    }),
  },
  {
    name: 'auto-beta',
    says: 'objective.auto_beta: 0.2',
    change: { objective: { auto_beta: 0.2 } },
  },
  {
    name: 'safeguard',
    says: 'objective.safeguard: 0.5',
    change: { objective: { safeguard: 0.5 } },
  },
  {
    name: 'pixels',
    says: 'sampling.generated: pixels',
    change: { sampling: { generated: 'pixels' } },
  },
  {
    name: 'from-image',
    says: 'sampling.generated_from: image, strength 0.5',
    change: { sampling: { generated_from: 'image', strength: 0.5 } },
  },
  {
    name: 'caption-dropout',
    says: 'train.caption_dropout: 0.2',
    change: { train: { caption_dropout: 0.2 } },
  },
];

/** The first iteration of a run config, alone, with one variant's change and a seed of its own. */
export function ablationConfig(config, folder, variant, seed) {
  const at = (path) => (isAbsolute(path) ? path : resolve(folder, path));
  const { evaluation } = config;
  const base = {
    ...config,
    model: at(config.model),
    data: { ...config.data, path: at(config.data.path) },
    iterations: 1,
    baselines: {},
    objective: firstOf(config.objective ?? {}),
    train: firstOf(config.train ?? {}),
    seed,
    evaluation: {
      ...evaluation,
      prompts: promptsAt(evaluation.prompts, at),
      ...(evaluation.select && {
        select: {
          ...evaluation.select,
          ...(evaluation.select.prompts && { prompts: at(evaluation.select.prompts) }),
        },
      }),
      metrics: evaluation.metrics.map((metric) => ({
        ...metric,
        model: at(metric.model),
        ...(metric.head && { head: at(metric.head) }),
      })),
    },
  };
  const change = typeof variant.change === 'function' ? variant.change(base) : variant.change;
  return merged(base, change);
}

/** One file, or named sets: a file or {file, limit} each. */
function promptsAt(prompts, at) {
  if (typeof prompts === 'string') return at(prompts);
  const sets = Object.entries(prompts).map(([name, set]) => [
    name,
    typeof set === 'string' ? at(set) : { ...set, file: at(set.file) },
  ]);
  return Object.fromEntries(sets);
}

/** Of keys with one value per iteration, the first one's. */
function firstOf(section) {
  const values = Object.entries(section).map(([key, value]) => [
    key,
    Array.isArray(value) && key !== 'lora' ? value[0] : value,
  ]);
  return Object.fromEntries(values);
}

function merged(config, change) {
  const sections = Object.entries(change).map(([key, value]) => [
    key,
    { ...(config[key] ?? {}), ...value },
  ]);
  return { ...config, ...Object.fromEntries(sections) };
}

/** Scores of one model, by judge and prompt: means over a prompt's images. */
export function scoresOf(lines, model) {
  const sums = new Map();
  for (const line of lines.split('\n')) {
    if (line === '') continue;
    const { model: name, prompt_index: prompt, scores } = JSON.parse(line);
    if (name !== model) continue;
    for (const [judge, score] of Object.entries(scores)) {
      const byPrompt = sums.get(judge) ?? sums.set(judge, new Map()).get(judge);
      byPrompt.set(prompt, [...(byPrompt.get(prompt) ?? []), score]);
    }
  }
  return new Map(
    [...sums].map(([judge, byPrompt]) => [
      judge,
      new Map([...byPrompt].map(([prompt, scores]) => [prompt, mean(scores)])),
    ]),
  );
}

/** a − b by prompt, of prompts that both have, in the order of the prompts. */
export function differences(a, b) {
  return [...a]
    .filter(([prompt]) => b.has(prompt))
    .sort(([p], [q]) => p - q)
    .map(([prompt, score]) => score - b.get(prompt));
}

/**
 * Mean and 95 % interval of values[seed][prompt], where prompts and seeds are both a draw from
 * many: the variance of the mean is that of the seeds' means over their number, and that of the
 * prompts' over theirs. With one seed it is that of the prompts alone.
 */
export function estimate(values) {
  const [first = []] = values;
  const seeds = values.map(mean);
  const prompts = first.map((_, p) => mean(values.map((row) => row[p] ?? 0)));
  const parts = [seeds, prompts]
    .filter((means) => means.length > 1)
    .map((means) => ({ of: variance(means) / means.length, freedom: means.length - 1 }));
  const total = parts.reduce((sum, { of }) => sum + of, 0);
  const spread = parts.reduce((sum, { of, freedom }) => sum + of ** 2 / freedom, 0);
  const half = total > 0 ? studentT(total ** 2 / spread) * Math.sqrt(total) : 0;
  const middle = mean(seeds);
  return { mean: middle, low: middle - half, high: middle + half };
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}

function variance(values) {
  const middle = mean(values);
  return values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1);
}

/** Student's t at 97.5 %, by Cornish and Fisher's expansion; within 1 % from two degrees on. */
function studentT(freedom) {
  const z = 1.959964;
  const terms = [
    (z ** 3 + z) / 4,
    (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96,
    (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384,
    (79 * z ** 9 + 776 * z ** 7 + 1482 * z ** 5 - 1920 * z ** 3 - 945 * z) / 92160,
  ];
  return terms.reduce((sum, term, n) => sum + term / freedom ** (n + 1), z);
}

/**
 * Runs as {variant, seed, base, trained: scoresOf(), trainSeconds}; a Markdown table: by judge what
 * the iteration gained over the base, and more than the plain one did.
 */
export function ablationTable(runs) {
  const judges = [...(runs[0]?.trained.keys() ?? [])];
  const plain = new Map(
    runs.filter((run) => run.variant === 'plain').map((run) => [run.seed, run]),
  );
  const columns = judges.flatMap((judge) => [`${judge}: over the base`, 'over plain']);
  const lines = [
    `| setting | seeds | ${columns.join(' | ')} | training |`,
    `| --- | --- | ${columns.map(() => '---').join(' | ')} | --- |`,
  ];
  for (const { name, says } of variants) {
    const own = runs.filter((run) => run.variant === name);
    if (own.length === 0) continue;
    const cells = judges.flatMap((judge) => {
      const gains = own.map((run) => differences(run.trained.get(judge), run.base.get(judge)));
      const pairs = own.filter((run) => name !== 'plain' && plain.has(run.seed));
      const more = pairs.map((run) =>
        differences(run.trained.get(judge), plain.get(run.seed).trained.get(judge)),
      );
      return [shown(gains), more.length > 0 ? shown(more) : '–'];
    });
    const seconds = mean(own.map((run) => run.trainSeconds));
    lines.push(`| ${says} | ${own.length} | ${cells.join(' | ')} | ${seconds.toFixed(0)} s |`);
  }
  return lines.join('\n');
}

function shown(values) {
  const { mean: middle, low, high } = estimate(values);
  return `${signed(middle)} (${signed(low)} to ${signed(high)})`;
}

function signed(value) {
  return `${value >= 0 ? '+' : '−'}${Math.abs(value).toFixed(3)}`;
}
