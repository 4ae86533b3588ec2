import {
  bestSentence,
  duration,
  judgeLine,
  metricNames,
  judgedPairsSentence,
  selectionSentence,
  setNames,
  signed,
  testNote,
  type Report,
} from './report.js';
import { chosenSentence, chosenTitle, winOver, type Chosen, type ChosenTable } from './chosen.js';
import { keptSentence, type JudgedTraining } from '@spindle/proto';
import { verdictText } from '@spindle/kit/domain';
import type { Statistics } from './statistics.js';

export function reportMarkdown(report: Report): string {
  const { run, config, models, judges, best } = report;
  const metrics = metricNames(models);
  const lines = [
    `# Run ${escape(run.runId)}`,
    '',
    `Status: ${escape(run.status)}. Best model: **${escape(run.bestModel || 'none')}**.`,
    '',
  ];
  const chosen = [selectionSentence(report), bestSentence(best), judgedPairsSentence(run)].filter(
    (text) => text !== '',
  );
  for (const sentence of chosen) lines.push(escape(sentence), '');
  for (const metric of metrics) {
    const judge = judges[metric];
    lines.push(
      `## ${escape(metric)}`,
      '',
      ...(judge ? [escape(judgeLine(judge)), ''] : []),
      ...head,
    );
    models.forEach((model, position) => {
      const found = model.metrics.find((entry) => entry.metric === metric);
      if (found === undefined) return;
      const name = model.name === run.bestModel ? `**${escape(model.name)}**` : escape(model.name);
      lines.push(...rows(name, found.statistics, position));
      for (const { category, statistics } of found.categories)
        lines.push(...rows(`${escape(model.name)}, ${escape(category)}`, statistics, position));
    });
    lines.push('');
    for (const set of setNames(models)) {
      lines.push(`### ${escape(metric)}, ${escape(set)}`, '', ...head);
      models.forEach(({ name, metrics: own }, position) => {
        const sets = own.find((entry) => entry.metric === metric)?.sets ?? [];
        for (const { set: of, statistics } of sets)
          if (of === set) lines.push(...rows(escape(name), statistics, position));
      });
      lines.push('');
    }
  }
  if (metrics.length > 0) lines.push(escape(testNote), '');
  if (report.chosen) lines.push(...chosenTables('One image per prompt', report.chosen));
  for (const { set, chosen: of } of report.chosenInSets)
    lines.push(...chosenTables(`One image per prompt, ${escape(set)}`, of));
  if (run.judgedTrainings.length > 0) lines.push(...judgedTables(run.judgedTrainings));
  if (run.warnings.length > 0)
    lines.push('## Warnings', '', ...run.warnings.map((warning) => `- ${escape(warning)}`), '');
  if (run.timings.length > 0)
    lines.push(
      '## Time',
      '',
      '| stage | time |',
      '|---|---|',
      ...run.timings.map(({ stage, seconds }) => `| ${escape(stage)} | ${duration(seconds)} |`),
      '',
    );
  lines.push('## Settings', '', '```json', JSON.stringify(config, null, 2), '```', '');
  lines.push(
    'Images: `images/<model>/` with `metadata.jsonl`. Plots and sample grids: `report.html`.',
    '',
  );
  return lines.join('\n');
}

const head = [
  '| model | mean (95 %) ± standard error | median | win rate vs base (95 %) | ties as lost | ' +
    'difference to base (95 %) | | n |',
  '|---|---|---|---|---|---|---|---|',
];

function chosenTables(title: string, chosen: Chosen): string[] {
  return [
    `## ${title}`,
    '',
    escape(chosenSentence(chosen)),
    '',
    ...chosen.tables.flatMap((table) => [
      `### ${escape(chosenTitle(table))}`,
      '',
      ...matrix(table),
    ]),
  ];
}

function judgedTables(trainings: readonly JudgedTraining[]): string[] {
  return [
    '## Scores while training',
    '',
    ...trainings.flatMap((training) => [
      ...(keptSentence(training) === '' ? [] : [escape(keptSentence(training)), '']),
      `| ${escape(training.model)}, step | ${escape(training.metric)} ± standard error | n |`,
      '|---|---|---|',
      ...training.steps.map(
        ({ step, mean, standardError, n }) =>
          `| ${step === training.keptStep ? `**${step}**` : step} | ${mean.toFixed(3)} ± ` +
          `${standardError.toFixed(3)} | ${n} |`,
      ),
      '',
    ]),
  ];
}

function matrix(table: ChosenTable): string[] {
  const names = table.models.map(({ model }) => model);
  const percent = (share: number): string => (100 * share).toFixed(1);
  const cell = (model: string, other: string): string => {
    const win = winOver(table, model, other);
    if (win === null) return '–';
    return `${percent(win.winRate)} % (${percent(win.winRateLow)} to ${percent(win.winRateHigh)})`;
  };
  return [
    `| model | mean (95 %) | median | ${names.map((name) => `over ${escape(name)}`).join(' | ')} |`,
    `|---|---|---|${'---|'.repeat(names.length)}`,
    ...table.models.map(
      ({ model, mean, meanLow, meanHigh, median }) =>
        `| ${escape(model)} | ${mean.toFixed(3)} (${meanLow.toFixed(3)} to ` +
        `${meanHigh.toFixed(3)}) | ${median.toFixed(3)} | ` +
        `${names.map((other) => cell(model, other)).join(' | ')} |`,
    ),
    '',
  ];
}

function rows(name: string, s: Statistics, position: number): string[] {
  const own = [row(name, s, s, position)];
  return s.bestOf
    ? [...own, row(`${name}, best of ${s.bestOf.images}`, s, s.bestOf, position)]
    : own;
}

function row(
  name: string,
  whole: Statistics,
  s: Statistics | NonNullable<Statistics['bestOf']>,
  position: number,
): string {
  const percent = (share: number): string => (100 * share).toFixed(1);
  const versus =
    position === 0
      ? ['', '', '', '']
      : [
          `${percent(s.winRate)} % (${percent(s.winRateLow)} to ${percent(s.winRateHigh)})`,
          `${percent(s.winRateTiesLose)} %`,
          `${signed(s.difference)} (${signed(s.differenceLow)} to ${signed(s.differenceHigh)})`,
          verdictText(s),
        ];
  const mean =
    'meanLow' in s
      ? `${s.mean.toFixed(3)} (${s.meanLow.toFixed(3)} to ${s.meanHigh.toFixed(3)}) ± ` +
        s.standardError.toFixed(3)
      : s.mean.toFixed(3);
  return (
    `| ${name} | ${mean} | ${'median' in s ? s.median.toFixed(3) : ''} | ${versus.join(' | ')} ` +
    `| ${whole.n} |`
  );
}

function escape(text: string): string {
  return text.replace(/[|\\`*_<>[\]]/g, '\\$&').replace(/\s+/g, ' ');
}
