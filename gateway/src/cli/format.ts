import { RunStatus, type ModelStatistics, type Run } from '@spindle/proto';

export function statusName(status: RunStatus): string {
  return RunStatus[status].toLowerCase();
}

export function isOver(run: Run): boolean {
  return (
    run.status === RunStatus.SUCCEEDED ||
    run.status === RunStatus.FAILED ||
    run.status === RunStatus.CANCELLED
  );
}

/** "1 h 02 min", "3 min 05 s", "12 s"; "?" when unknown. */
export function duration(seconds: number): string {
  if (seconds < 0 || !Number.isFinite(seconds)) return '?';
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, '0')} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

export function rate(itemsPerSecond: number): string {
  if (itemsPerSecond <= 0) return '';
  return itemsPerSecond >= 1
    ? `${itemsPerSecond.toFixed(1)}/s`
    : `${(1 / itemsPerSecond).toFixed(1)} s each`;
}

/** Screen columns, as long as nobody writes East Asian run names. */
function width(text: string): number {
  return Array.from(text).length;
}

/** Columns padded to their widest cell; the first is left-aligned, the others to the right. */
export function table(rows: string[][], leftColumns = 1): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => width(row[column] ?? ''))),
  );
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const space = ' '.repeat(Math.max(0, (widths[column] ?? 0) - width(cell)));
        return column < leftColumns ? cell + space : space + cell;
      })
      .join('  ')
      .trimEnd(),
  );
}

/** One line per model: per metric mean ± standard error, median, and win rate against the base. */
export function resultsTable(results: ModelStatistics[], best: string): string[] {
  const metrics = [...new Set(results.flatMap((model) => model.metrics.map((m) => m.metric)))];
  const header = [
    'model',
    ...metrics.flatMap((metric) => [`${metric} mean`, 'median', 'win rate']),
    'n',
  ];
  const rows = results.map((model) => [
    model.model === best ? `${model.model} *` : model.model,
    ...metrics.flatMap((name) => {
      const m = model.metrics.find((metric) => metric.metric === name);
      if (!m) return ['', '', ''];
      return [
        `${m.mean.toFixed(3)} ± ${m.standardError.toFixed(3)}`,
        m.median.toFixed(3),
        model.model === results[0]?.model ? '' : `${(100 * m.winRate).toFixed(1)} %`,
      ];
    }),
    String(model.metrics[0]?.n ?? ''),
  ]);
  return [...table([header, ...rows]), ...(best !== '' ? [bestNote(results, metrics[0])] : [])];
}

/** How the best model was chosen: on prompts of their own where the run has such. */
function bestNote(results: readonly ModelStatistics[], first = 'the first metric'): string {
  const chosen = results[0]?.metrics.find(({ select }) => select !== undefined)?.select;
  return chosen === undefined
    ? `* best model by the mean of ${first}`
    : `* best model, chosen on ${chosen.n} other prompts`;
}
