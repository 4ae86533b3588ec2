/** The report as one self-contained page: no script, no network, light and dark. */
import { escapeHtml, linePlot, smooth, type Series } from './plot.js';
import {
  bestSentence,
  duration,
  judgeLine,
  metricNames,
  signed,
  testNote,
  type ModelReport,
  type Report,
} from './report.js';
import { verdictText } from '@spindle/kit/domain';
import type { StageTiming, StepNumbers, TrainingCurve, TrainStep } from '@spindle/proto';
import type { Statistics } from './statistics.js';
import { style } from './style.js';

/** One prompt's images, model by model; null where a model has none. */
export interface GridRow {
  text: string;
  seed: string;
  images: (string | null)[];
}

export function reportHtml(report: Report, grid: readonly GridRow[]): string {
  const { run } = report;
  const body = [
    header(report),
    run.warnings.length === 0
      ? ''
      : `<section class="warnings"><h2>Warnings</h2><ul>${run.warnings.map((text) => `<li>${escapeHtml(text)}</li>`).join('')}</ul></section>`,
    results(report),
    plots(run.curves),
    grids(report.models, grid),
    timings(run.timings),
    `<section><h2>Settings</h2><details><summary>The whole resolved config</summary><pre>${escapeHtml(JSON.stringify(report.config, null, 2))}</pre></details></section>`,
  ];
  const title = `Spindle run ${escapeHtml(run.runId)}`;
  return `<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark"><title>${title}</title><style>${style}</style></head>\n<body><main>\n${body.filter((part) => part !== '').join('\n')}\n</main></body></html>\n`;
}

function header({ run, models }: Report): string {
  const total = run.timings.reduce((sum, { seconds }) => sum + seconds, 0);
  const facts = [
    ['Status', run.status],
    ['Best model', run.bestModel || 'none'],
    ['Models', String(models.length)],
    ['Time in stages', duration(total)],
  ];
  return `<header><h1>Run <code>${escapeHtml(run.runId)}</code></h1><dl>${facts.map(([key = '', value = '']) => `<div><dt>${key}</dt><dd>${escapeHtml(value)}</dd></div>`).join('')}</dl></header>`;
}

function results({ run, models, judges, best }: Report): string {
  const tables = metricNames(models).map((metric) => {
    const rows = models.flatMap((model, position) => {
      const found = model.metrics.find((entry) => entry.metric === metric);
      if (found === undefined) return [];
      const isBest = model.name === run.bestModel;
      return [
        ...rowsOf(
          `${escapeHtml(model.name)}${isBest ? ' <span class="badge">best</span>' : ''}`,
          found.statistics,
          position,
          isBest,
        ),
        ...found.categories.flatMap(({ category, statistics }) =>
          rowsOf(
            `<small>${escapeHtml(model.name)}, ${escapeHtml(category)}</small>`,
            statistics,
            position,
            false,
          ),
        ),
      ];
    });
    const judge = judges[metric];
    const line = judge ? `<p class="note">${escapeHtml(judgeLine(judge))}</p>` : '';
    return `<h3>${escapeHtml(metric)}</h3>${line}<div class="scroll"><table><thead><tr><th>model</th><th>mean ± standard error</th><th>median</th><th>win rate vs base</th><th>ties as lost</th><th>difference to base, 95 %</th><th></th><th>n</th></tr></thead><tbody>${rows.join('')}</tbody></table></div>`;
  });
  const note = `<p class="note">Paired by prompt and seed; ties count one half unless said. Intervals are bootstraps over prompts; ${testNote}</p>`;
  const sentence = best.length > 0 ? `<p>${escapeHtml(bestSentence(best))}</p>` : '';
  return `<section><h2>Results</h2>${sentence}${tables.length === 0 ? '<p class="note">No model was judged.</p>' : tables.join('') + note}</section>`;
}

function rowsOf(name: string, s: Statistics, position: number, best: boolean): string[] {
  const row = (label: string, of: Statistics | NonNullable<Statistics['bestOf']>): string => {
    const percent = (share: number): string => (100 * share).toFixed(1);
    const versus =
      position === 0
        ? '<td class="none">–</td>'.repeat(4)
        : `<td>${winBar(of.winRate)} <small>${percent(of.winRateLow)} to ${percent(of.winRateHigh)}</small></td><td>${percent(of.winRateTiesLose)} %</td><td>${signed(of.differenceLow)} to ${signed(of.differenceHigh)}</td><td>${escapeHtml(verdictText(of))}</td>`;
    const mean =
      'meanLow' in of
        ? `${of.mean.toFixed(3)} <small>± ${of.standardError.toFixed(3)}, ${of.meanLow.toFixed(3)} to ${of.meanHigh.toFixed(3)}</small>`
        : of.mean.toFixed(3);
    return `<tr${best ? ' class="best"' : ''}><th scope="row">${label}</th><td>${mean}</td><td>${'median' in of ? of.median.toFixed(3) : ''}</td>${versus}<td>${s.n}</td></tr>`;
  };
  return [
    row(name, s),
    ...(s.bestOf ? [row(`${name} <small>best of ${s.bestOf.images}</small>`, s.bestOf)] : []),
  ];
}

function winBar(rate: number): string {
  const percent = (100 * rate).toFixed(1);
  return `<span class="bar" style="--share:${percent}%"></span>${percent} %`;
}

function plots(curves: readonly TrainingCurve[]): string {
  const models = curves.filter(({ steps }) => steps.length > 0);
  if (models.length === 0) return '';
  const of = (steps: readonly TrainStep[], key: keyof StepNumbers): { x: number; y: number }[] =>
    smooth(
      steps.map((step) => ({ x: step.step, y: step[key] })),
      Math.max(1, Math.round(steps.length / 20)),
    );
  const colour = (i: number): number => (i % 6) + 1;
  const spin = models.filter(({ steps }) => steps.some((step) => step.errorGenerated !== 0));
  const perModel = (list: typeof models, key: keyof StepNumbers): Series[] =>
    list.map(({ model, steps }) => ({
      name: model,
      points: of(steps, key),
      colour: colour(models.findIndex((other) => other.model === model)),
    }));
  const plain = models.filter((entry) => !spin.includes(entry));
  const figures = [
    linePlot(perModel(spin, 'loss'), { title: 'Loss, self-play', xLabel: 'step', yLabel: 'loss' }),
    linePlot(perModel(spin, 'implicitAccuracy'), {
      title: 'Implicit accuracy: share of pairs told apart',
      xLabel: 'step',
      yLabel: 'accuracy',
      yRange: [0, 1],
      reference: { y: 0.5, label: 'chance' },
    }),
    linePlot(perModel(plain, 'loss'), {
      title: 'Loss, plain denoising',
      xLabel: 'step',
      yLabel: 'loss',
    }),
    linePlot(perModel(spin.length > 0 ? spin : models, 'gradNorm'), {
      title: 'Gradient norm before clipping',
      xLabel: 'step',
      yLabel: 'norm',
    }),
    ...spin.map(({ model, steps }) =>
      linePlot(
        [
          { name: 'real', points: of(steps, 'errorReal'), colour: 1 },
          {
            name: "real, opponent's",
            points: of(steps, 'opponentErrorReal'),
            colour: 1,
            dashed: true,
          },
          { name: 'generated', points: of(steps, 'errorGenerated'), colour: 2 },
          {
            name: "generated, opponent's",
            points: of(steps, 'opponentErrorGenerated'),
            colour: 2,
            dashed: true,
          },
        ],
        { title: `Denoising errors, ${model}`, xLabel: 'step', yLabel: 'error' },
      ),
    ),
  ];
  const note =
    '<p class="note">Smoothed over a twentieth of the steps. Healthy self-play raises the error on generated images faster than the one on real images; a real-image error that stays above the opponent’s means that the model is forgetting.</p>';
  return `<section><h2>Training</h2><div class="plots">${figures.join('')}</div>${note}</section>`;
}

function grids(models: readonly ModelReport[], grid: readonly GridRow[]): string {
  if (grid.length === 0) return '';
  const head = models.map((model) => `<th>${escapeHtml(model.name)}</th>`).join('');
  const rows = grid.map(({ text, seed, images }) => {
    const cells = images.map((src, i) => {
      const alt = escapeHtml(`${models[i]?.name ?? ''}: ${text}`);
      return src === null ? '<td class="none">–</td>' : `<td><img src="${src}" alt="${alt}"></td>`;
    });
    return `<tr><th scope="row">${escapeHtml(text)}<small>seed ${escapeHtml(seed)}</small></th>${cells.join('')}</tr>`;
  });
  return `<section><h2>Same prompt, same seed</h2><div class="scroll"><table class="grid-table"><thead><tr><th>prompt</th>${head}</tr></thead><tbody>${rows.join('')}</tbody></table></div></section>`;
}

function timings(stages: readonly StageTiming[]): string {
  if (stages.length === 0) return '';
  const longest = Math.max(...stages.map(({ seconds }) => seconds), 1e-9);
  const rows = stages.map(({ stage, seconds }) => {
    const bar = `<span class="bar wide" style="--share:${((100 * seconds) / longest).toFixed(1)}%"></span>`;
    return `<tr><th scope="row">${escapeHtml(stage)}</th><td>${bar}${duration(seconds)}</td></tr>`;
  });
  return `<section><h2>Time</h2><div class="scroll"><table class="narrow"><tbody>${rows.join('')}</tbody></table></div></section>`;
}
