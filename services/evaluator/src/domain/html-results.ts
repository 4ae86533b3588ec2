/** The page's tables: every judge's statistics of every model. */
import { verdictText } from '@spindle/kit/domain';
import { markup, Markup, nothing } from './markup.js';
import {
  bestSentence,
  judgeLine,
  metricNames,
  judgedPairsSentence,
  selectionSentence,
  signed,
  testNote,
  type MetricReport,
  type Report,
} from './report.js';
import type { Statistics } from './statistics.js';

type BestOf = NonNullable<Statistics['bestOf']>;

/** How a row is shown beside its numbers. */
interface RowLook {
  name: Markup;
  /** The base has nothing to be compared with. */
  base: boolean;
  best: boolean;
}

const columns = [
  'model',
  'mean ± standard error',
  'median',
  'win rate vs base',
  'ties as lost',
  'difference to base, 95 %',
  '',
  'n',
];
/** Those that say how a model does against the base. */
const versusColumns = 4;

export function results(report: Report): Markup {
  const { models, best, run } = report;
  const metrics = metricNames(models);
  const judged = judgedPairsSentence(run);
  const chosen = selectionSentence(report);
  return markup`
    <section>
      <h2>Results</h2>
      ${chosen === '' ? nothing : markup`<p>${chosen}</p>`}
      ${best.length > 0 ? markup`<p>${bestSentence(best)}</p>` : nothing}
      ${judged === '' ? nothing : markup`<p>${judged}</p>`}
      ${metrics.map((metric) => metricTable(report, metric))}
      ${metrics.length > 0 ? note() : markup`<p class="note">No model was judged.</p>`}
    </section>`;
}

function note(): Markup {
  // Nothing of a run is in it.
  const ownWords = new Markup(testNote);
  return markup`
    <p class="note">
      Paired by prompt and seed; ties count one half unless said. Intervals are bootstraps over
      prompts; ${ownWords}
    </p>`;
}

function metricTable({ run, models, judges }: Report, metric: string): Markup {
  const judge = judges[metric];
  const rows = models.flatMap((model, position) => {
    const found = model.metrics.find((entry) => entry.metric === metric);
    if (found === undefined) return [];
    return modelRows(model.name, found, {
      base: position === 0,
      best: model.name === run.bestModel,
    });
  });
  return markup`
    <h3>${metric}</h3>
    ${judge ? markup`<p class="note">${judgeLine(judge)}</p>` : nothing}
    <div class="scroll">
      <table>
        <thead><tr>${columns.map((column) => markup`<th>${column}</th>`)}</tr></thead>
        <tbody>${rows}</tbody>
      </table>
    </div>`;
}

/** A model's row, and one per category below it. */
function modelRows(
  model: string,
  { statistics, categories }: MetricReport,
  { base, best }: Omit<RowLook, 'name'>,
): Markup[] {
  const badge = best ? markup` <span class="badge">best</span>` : nothing;
  return [
    ...rows(statistics, { name: markup`${model}${badge}`, base, best }),
    ...categories.flatMap(({ category, statistics: of }) =>
      rows(of, { name: markup`<small>${model}, ${category}</small>`, base, best: false }),
    ),
  ];
}

/** Of all images, and of the best of each prompt's where there are several. */
function rows(statistics: Statistics, look: RowLook): Markup[] {
  const { bestOf, n } = statistics;
  if (bestOf === null) return [row(statistics, n, look)];
  const name = markup`${look.name} <small>best of ${bestOf.images}</small>`;
  return [row(statistics, n, look), row(bestOf, n, { ...look, name })];
}

function row(of: Statistics | BestOf, n: number, { name, base, best }: RowLook): Markup {
  const median = 'median' in of ? of.median.toFixed(3) : '';
  return markup`
    <tr${best ? markup` class="best"` : nothing}>
      <th scope="row">${name}</th>
      <td>${mean(of)}</td>
      <td>${median}</td>
      ${base ? Array<Markup>(versusColumns).fill(markup`<td class="none">–</td>`) : versus(of)}
      <td>${n}</td>
    </tr>`;
}

function mean(of: Statistics | BestOf): Markup {
  const value = of.mean.toFixed(3);
  if (!('meanLow' in of)) return markup`${value}`;
  const [error, low, high] = [of.standardError, of.meanLow, of.meanHigh].map((x) => x.toFixed(3));
  return markup`${value} <small>± ${error ?? ''}, ${low ?? ''} to ${high ?? ''}</small>`;
}

function versus(of: Statistics | BestOf): Markup {
  const interval = `${percent(of.winRateLow)} to ${percent(of.winRateHigh)}`;
  return markup`
    <td>${bar('bar', of.winRate)}${percent(of.winRate)} % <small>${interval}</small></td>
    <td>${percent(of.winRateTiesLose)} %</td>
    <td>${signed(of.differenceLow)} to ${signed(of.differenceHigh)}</td>
    <td>${verdictText(of)}</td>`;
}

/** Filled to a share of its length. */
export function bar(name: string, share: number): Markup {
  return markup`<span class="${name}" style="--share:${percent(share)}%"></span>`;
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}
