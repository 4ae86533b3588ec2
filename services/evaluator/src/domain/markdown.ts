import { duration, metricNames, type Report } from './report.js';

export function reportMarkdown({ run, models }: Report): string {
  const metrics = metricNames(models);
  const lines = [
    `# Run ${escape(run.run_id)}`,
    '',
    `Status: ${escape(run.status)}. Best model: **${escape(run.best_model || 'none')}**.`,
    '',
  ];
  for (const metric of metrics) {
    lines.push(
      `## ${escape(metric)}`,
      '',
      '| model | mean ± standard error | median | win rate vs base | difference to base (95 %) | n |',
      '|---|---|---|---|---|---|',
    );
    models.forEach((model, position) => {
      const s = model.metrics.find((entry) => entry.metric === metric)?.statistics;
      if (s === undefined) return;
      const versus =
        position === 0 ? ['', ''] : [`${(100 * s.winRate).toFixed(1)} %`, `${signed(s.differenceLow)} to ${signed(s.differenceHigh)}`];
      const name = model.name === run.best_model ? `**${escape(model.name)}**` : escape(model.name);
      lines.push(
        `| ${name} | ${s.mean.toFixed(3)} ± ${s.standardError.toFixed(3)} | ${s.median.toFixed(3)} | ${versus[0]} | ${versus[1]} | ${s.n} |`,
      );
    });
    lines.push('');
  }
  if (run.warnings.length > 0) lines.push('## Warnings', '', ...run.warnings.map((warning) => `- ${escape(warning)}`), '');
  const timings = Object.entries(run.timings);
  if (timings.length > 0)
    lines.push(
      '## Time',
      '',
      '| stage | time |',
      '|---|---|',
      ...timings.map(([stage, seconds]) => `| ${escape(stage)} | ${duration(seconds)} |`),
      '',
    );
  lines.push('## Settings', '', '```json', JSON.stringify(run.config, null, 2), '```', '');
  lines.push('Images: `images/<model>/` with `metadata.jsonl`. Plots and sample grids: `report.html`.', '');
  return lines.join('\n');
}

function signed(value: number): string {
  return `${value >= 0 ? '+' : '−'}${Math.abs(value).toFixed(3)}`;
}

function escape(text: string): string {
  return text.replace(/[|\\`*_<>[\]]/g, '\\$&').replace(/\s+/g, ' ');
}
