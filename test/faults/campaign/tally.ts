/** What came of the faults, by class; and how it is said. */

/**
 * - survived: the run ended in the same bytes, without help.
 * - detected: the product said what was wrong, in a sentence; a resume (or a restart, or room on
 *   the disk) led to the same bytes.
 * - lost: as detected, but the damaged file had to come from a backup.
 * - silent: anything else.
 */
export type Outcome = 'survived' | 'detected' | 'lost' | 'silent';

export interface Row {
  fault: string;
  tried: number;
  survived: number;
  detected: number;
  lost: number;
  silent: number;
}

export class Tally {
  readonly #rows = new Map<string, Row>();

  add(fault: string, outcome: Outcome): void {
    const row = this.#rows.get(fault) ?? newRow(fault);
    row.tried++;
    row[outcome]++;
    this.#rows.set(fault, row);
  }

  /** By name; the last one is the sum. */
  rows(): Row[] {
    const rows = [...this.#rows.values()].sort((a, b) => (a.fault < b.fault ? -1 : 1));
    const all = newRow('all');
    for (const row of rows)
      for (const key of ['tried', 'survived', 'detected', 'lost', 'silent'] as const)
        all[key] += row[key];
    return [...rows, all];
  }
}

function newRow(fault: string): Row {
  return { fault, tried: 0, survived: 0, detected: 0, lost: 0, silent: 0 };
}

/** The 95 % upper bound of a rate of which none was seen in n trials. */
export function zeroOf(tried: number): string {
  const bound = tried === 0 ? 1 : Math.min(1, 3 / tried);
  return `0 (< ${Number((100 * bound).toPrecision(2))} %)`;
}

/** A Markdown table. */
export function tableOf(rows: readonly Row[]): string {
  const cells = rows.map(({ fault, tried, survived, detected, lost, silent }) => [
    fault,
    String(tried),
    String(survived),
    String(detected),
    String(lost),
    silent === 0 ? zeroOf(tried) : String(silent),
  ]);
  const lines = [['fault', 'n', 'survived', 'detected', 'lost', 'silent'], ...cells];
  const widths = lines[0]?.map((_, at) => Math.max(...lines.map((line) => line[at]?.length ?? 0)));
  const [head, ...body] = lines.map(
    (line) => `| ${line.map((cell, at) => cell.padEnd(widths?.[at] ?? 0)).join(' | ')} |`,
  );
  const rule = `| ${(widths ?? []).map((width) => '-'.repeat(width)).join(' | ')} |`;
  return [head, rule, ...body].join('\n');
}
