/**
 * A run's report as data: what report.json holds, and what the Markdown and HTML pages are drawn
 * from.
 */
import { verdictText, type Against } from '@spindle/kit/domain';
import { stepNumbers, type JudgedTraining, type RunReport, type TrainStep } from '@spindle/proto';
import type { Chosen } from './chosen.js';
import type { BestAgainst, Judge, Selection, Statistics } from './statistics.js';

export interface MetricReport {
  metric: string;
  statistics: Statistics;
  selection: Selection | null;
  categories: { category: string; statistics: Statistics }[];
  sets: { set: string; statistics: Statistics }[];
}

export interface ModelReport {
  name: string;
  metrics: MetricReport[];
  images: { fileName: string; text: string; seed: string }[];
}

export interface Report {
  run: RunReport;
  /** The run's resolved one. */
  config: unknown;
  models: ModelReport[];
  /** By metric; what no scorer described is not there. */
  judges: Record<string, Judge>;
  /** The model with the best mean by the first judge against every other. */
  best: BestAgainst[];
  /** One image per prompt, by the average of the judges; null where nothing was judged. */
  chosen: Chosen | null;
  /** The same of each named set's prompts alone. */
  chosenInSets: { set: string; chosen: Chosen }[];
}

export function reportJson(report: Report): string {
  const { run, config, models, judges, best, chosen, chosenInSets } = report;
  const value = {
    schema_version: 1,
    run_id: run.runId,
    status: run.status,
    best_model: run.bestModel,
    models: models.map(({ name, metrics }) => ({
      name,
      images: `images/${name}`,
      metrics: Object.fromEntries(metrics.map((metric) => [metric.metric, metricJson(metric)])),
    })),
    judges,
    best_against: best.map(({ metric, best: name, model, ...against }) => ({
      metric,
      best: name,
      model,
      ...againstJson(against),
    })),
    ...(chosen && {
      chosen: {
        ...chosenJson(chosen),
        ...(chosenInSets.length > 0 && {
          sets: Object.fromEntries(
            chosenInSets.map(({ set, chosen: of }) => [set, chosenJson(of)]),
          ),
        }),
      },
    }),
    ...(run.judgedPairs.length > 0 && {
      judged_pairs: run.judgedPairs.map(({ opponent, pairs, leftOut }) => ({
        ...{ opponent, pairs, left_out: leftOut },
      })),
    }),
    ...(run.judgedTrainings.length > 0 && {
      judged_trainings: run.judgedTrainings.map(judgedTrainingJson),
    }),
    warnings: run.warnings,
    timings: Object.fromEntries(run.timings.map(({ stage, seconds }) => [stage, seconds])),
    curves: Object.fromEntries(run.curves.map(({ model, steps }) => [model, steps.map(stepJson)])),
    config,
  };
  return `${JSON.stringify(value, null, 2)}\n`;
}

function judgedTrainingJson(training: JudgedTraining): Record<string, unknown> {
  const { model, metric, steps, keptStep, keepsBest } = training;
  return {
    ...{ model, metric, keep: keepsBest ? 'best' : 'last', kept_step: keptStep },
    steps: steps.map(({ step, mean, standardError, n }) => ({
      ...{ step, mean, standard_error: standardError, n },
    })),
  };
}

/** Numbers that are not finite become null: JSON has none such. */
function stepJson(step: TrainStep): Record<string, number> {
  return Object.fromEntries(stepNumbers.map(({ name, key }) => [name, step[key]]));
}

function metricJson({
  statistics,
  selection,
  categories,
  sets,
}: MetricReport): Record<string, unknown> {
  return {
    ...statisticsJson(statistics),
    ...(selection && { select: selection }),
    ...(categories.length > 0 && {
      categories: Object.fromEntries(
        categories.map(({ category, statistics: s }) => [category, statisticsJson(s)]),
      ),
    }),
    ...(sets.length > 0 && {
      sets: Object.fromEntries(sets.map(({ set, statistics: s }) => [set, statisticsJson(s)])),
    }),
  };
}

function statisticsJson(s: Statistics): Record<string, unknown> {
  return {
    mean: s.mean,
    mean_low: s.meanLow,
    mean_high: s.meanHigh,
    median: s.median,
    standard_error: s.standardError,
    ...againstJson(s),
    n: s.n,
    images: s.images,
    ...(s.bestOf && {
      best_of: { images: s.bestOf.images, mean: s.bestOf.mean, ...againstJson(s.bestOf) },
    }),
  };
}

function chosenJson({ n, imagesPerPrompt, averaged, tables }: Chosen): Record<string, unknown> {
  return {
    n,
    images_per_prompt: imagesPerPrompt,
    average_of: averaged,
    tables: tables.map(({ metric, models, pairs }) => ({
      metric,
      models: models.map((s) => ({
        ...{ model: s.model, mean: s.mean, mean_low: s.meanLow, mean_high: s.meanHigh },
        ...{ median: s.median, standard_error: s.standardError },
      })),
      pairs: pairs.map((pair) => ({
        ...{ model: pair.model, other: pair.other },
        ...againstJson(pair),
      })),
    })),
  };
}

function againstJson(s: Against): Record<string, number | string> {
  return {
    win_rate: s.winRate,
    win_rate_low: s.winRateLow,
    win_rate_high: s.winRateHigh,
    win_rate_ties_lose: s.winRateTiesLose,
    difference: s.difference,
    difference_low: s.differenceLow,
    difference_high: s.differenceHigh,
    p_value: s.pValue,
    p_corrected: s.pCorrected,
    verdict: s.verdict,
  };
}

/** "Judge: hpsv2, v2.1, …; 100 · cosine; preprocess tensor; HPS_v2.1.safetensors sha256:…" */
export function judgeLine({ kind, variant, scale, preprocess, files }: Judge): string {
  return [
    `Judge: ${kind}`,
    variant,
    scale,
    `preprocessing: ${preprocess}`,
    ...files.map(({ name, digest }) => `${name} ${digest}`),
  ].join('; ');
}

/** Under every table of results. */
export const testNote =
  "p is a paired randomisation test of the mean difference; corrected is Holm's correction " +
  'for the models and judges that it is shown with (categories, sets of prompts, and the best ' +
  'of several images, each among themselves). Better and worse hold at 5 % after it.';

/** Named sets of prompts, in the order of the config. */
export function setNames(models: readonly ModelReport[]): string[] {
  const sets = models.flatMap(({ metrics }) => metrics.flatMap((metric) => metric.sets));
  return [...new Set(sets.map(({ set }) => set))];
}

/** What the best mean is worth: whether it can be told from the others'. */
export function bestSentence(best: readonly BestAgainst[]): string {
  const [first] = best;
  if (first === undefined) return '';
  const parts = best.map(
    (one) =>
      `${one.model}: ${signed(one.difference)} (95 % ${signed(one.differenceLow)} to ` +
      `${signed(one.differenceHigh)}), ${verdictText(one)}`,
  );
  return `By ${first.metric}, ${first.best} has the best mean. Against ${parts.join('; ')}.`;
}

/** By which prompts and judge the best model was chosen; empty where nothing was judged. */
export function selectionSentence({ run, models }: Pick<Report, 'run' | 'models'>): string {
  const metric = run.selectMetric || metricNames(models)[0];
  if (metric === undefined) return '';
  const chosen = models.flatMap(({ name, metrics }) => {
    const selection = metrics.find((one) => one.metric === metric)?.selection;
    return selection ? [{ name, ...selection }] : [];
  });
  const n = chosen[0]?.n;
  if (n === undefined)
    return (
      `Models are chosen by ${metric} on the prompts of these tables, so the chosen one's ` +
      'numbers are a little too good.'
    );
  const means = chosen.map((one) => `${one.name} ${one.mean.toFixed(3)}`).join(', ');
  return `Models are chosen by ${metric} on ${n} other prompts, which no table has: ${means}.`;
}

/** How many pairs a judge had training leave out; empty where none was asked. */
export function judgedPairsSentence({ judgedPairs }: RunReport): string {
  const parts = judgedPairs.map(
    ({ opponent, pairs, leftOut }) => `${leftOut} of ${pairs} with images of ${opponent}`,
  );
  return parts.length === 0 ? '' : `Pairs left out by objective.keep_if: ${parts.join('; ')}.`;
}

export function signed(value: number): string {
  return `${value >= 0 ? '+' : '−'}${Math.abs(value).toFixed(3)}`;
}

/** One line per image with every judge's score: what `spindle compare` pairs two runs by. */
export function scoreLines(
  models: readonly {
    name: string;
    items: readonly {
      prompt: number;
      text: string;
      category: string;
      set: string;
      seed: string;
      scores: Record<string, number>;
    }[];
  }[],
): string {
  return models
    .flatMap(({ name, items }) =>
      items.map(
        ({ prompt, text, category, set, seed, scores }) =>
          `{"model":${JSON.stringify(name)},"prompt_index":${prompt},"prompt":${JSON.stringify(text)},${named('category', category)}${named('set', set)}"seed":${seed},"scores":${JSON.stringify(scores)}}\n`,
      ),
    )
    .join('');
}

/** A key of a JSON line, where it says something. */
function named(key: string, value: string): string {
  return value === '' ? '' : `"${key}":${JSON.stringify(value)},`;
}

export function metadataLines(
  images: readonly { fileName: string; text: string; seed: string }[],
): string {
  // Seeds are 64-bit: written as JSON numbers, digit by digit, because JavaScript's own would round
  // them.
  return images
    .map(
      ({ fileName, text, seed }) =>
        `{"file_name":${JSON.stringify(fileName)},"text":${JSON.stringify(text)},"seed":${seed}}\n`,
    )
    .join('');
}

/** "1 h 04 min", "3 min 07 s", "12.3 s". */
export function duration(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const two = (value: number): string => String(value).padStart(2, '0');
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

export function metricNames(models: readonly ModelReport[]): string[] {
  return [...new Set(models.flatMap((model) => model.metrics.map(({ metric }) => metric)))];
}
