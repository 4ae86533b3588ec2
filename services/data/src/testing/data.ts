/** Small data sets on disk. For tests only. */
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DataRow, DataSource } from '../rows.js';

export function dataFolder(files: Record<string, string | Uint8Array>): string {
  const folder = mkdtempSync(join(tmpdir(), 'spindle-data-'));
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(folder, name, '..'), { recursive: true });
    writeFileSync(join(folder, name), content);
  }
  return folder;
}

export interface AllRows {
  rows: DataRow[];
  warnings: readonly string[];
  /** Reason -> how many rows. */
  skipped: Record<string, number>;
}

export async function readAll(source: DataSource): Promise<AllRows> {
  const rows: DataRow[] = [];
  for await (const row of source.rows()) rows.push(row);
  const skipped = Object.fromEntries(
    [...source.skipped.reasons].map(([reason, { count }]) => [reason, count]),
  );
  return { rows, warnings: source.warnings, skipped };
}
