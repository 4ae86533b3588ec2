/** The page's tables: every judge's statistics of every model. */
import { verdictText } from '@spindle/kit/domain';
import { chosenSentence, chosenTitle, winOver, type Chosen, type ChosenTable } from './chosen.js';
import { markup, Markup, nothing } from './markup.js';
import {
  bestSentence,
  judgeLine,
  metricNames,
  judgedPairsSentence,
  selectionSentence,
  setNames,
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
      ${report.chosen ? chosenTables('One image per prompt', report.chosen) : nothing}
      ${report.chosenInSets.map(({ set, chosen: of }) =>
        chosenTables(`One image per prompt, ${set}`, of),
      )}
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
  const found = models.map(({ metrics }) => metrics.find((entry) => entry.metric === metric));
  const rowsOf = (pick: (of: MetricReport) => Pick<MetricReport, 'statistics' | 'categories'>[]) =>
    models.flatMap(({ name }, position) => {
      const own = found[position];
      const look = { base: position === 0, best: name === run.bestModel };
      return (own === undefined ? [] : pick(own)).flatMap((of) => modelRows(name, of, look));
    });
  return markup`
    <h3>${metric}</h3>
    ${judge ? markup`<p class="note">${judgeLine(judge)}</p>` : nothing}
    ${table(rowsOf((of) => [of]))}
    ${setNames(models).map(
      (set) => markup`
        <h4>${metric}, ${set}</h4>
        ${table(
          rowsOf(({ sets }) =>
            sets
              .filter((one) => one.set === set)
              .map(({ statistics }) => ({ statistics, categories: [] })),
          ),
        )}`,
    )}`;
}

function table(rows: readonly Markup[]): Markup {
  return markup`
    <div class="scroll">
      <table>
        <thead><tr>${columns.map((column) => markup`<th>${column}</th>`)}</tr></thead>
        <tbody>${[...rows]}</tbody>
      </table>
    </div>`;
}

function chosenTables(title: string, chosen: Chosen): Markup {
  return markup`
    <h2>${title}</h2>
    <p>${chosenSentence(chosen)}</p>
    ${chosen.tables.map(matrix)}`;
}

function matrix(table: ChosenTable): Markup {
  const names = table.models.map(({ model }) => model);
  const cell = (model: string, other: string): Markup => {
    const win = winOver(table, model, other);
    if (win === null) return markup`<td class="none">–</td>`;
    const interval = `${percent(win.winRateLow)} to ${percent(win.winRateHigh)}`;
    return markup`<td>${percent(win.winRate)} % <small>${interval}</small></td>`;
  };
  const heads = [
    'model',
    'mean ± standard error',
    'median',
    ...names.map((name) => `over ${name}`),
  ];
  const tableRow = (of: ChosenTable['models'][number]): Markup => markup`
    <tr>
      <th scope="row">${of.model}</th>
      <td>${mean(of)}</td>
      <td>${of.median.toFixed(3)}</td>
      ${names.map((other) => cell(of.model, other))}
    </tr>`;
  return markup`
    <h3>${chosenTitle(table)}</h3>
    <div class="scroll">
      <table>
        <thead><tr>${heads.map((head) => markup`<th>${head}</th>`)}</tr></thead>
        <tbody>${table.models.map(tableRow)}</tbody>
      </table>
    </div>`;
}

/** A model's row, and one per category below it. */
function modelRows(
  model: string,
  { statistics, categories }: Pick<MetricReport, 'statistics' | 'categories'>,
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

function mean(of: Statistics | BestOf | ChosenTable['models'][number]): Markup {
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
