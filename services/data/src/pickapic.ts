/**
 * Pick-a-Pic (v1 and v2) as published: parquet files with jpg_0, jpg_1 (the two images' bytes),
 * label_0, label_1 (1, 0, or 0.5 each for a tie), has_label and caption. The winner is the row's
 * image; the other one is `rejected`.
 */
import { SpindleError } from '@spindle/kit';
import { captionOf } from './columns.js';
import { nameOf, type Files } from './files.js';
import { ParquetFile } from './parquet.js';
import { Prompts } from './prompts.js';
import { Skipped, some, type DataRow, type DataSource } from './rows.js';
import { shownColumns } from './shown.js';

const needed = ['jpg_0', 'jpg_1', 'label_0', 'label_1', 'caption'];

export function isPickAPic(columns: readonly string[]): boolean {
  return needed.every((name) => columns.includes(name));
}

export class PickAPic implements DataSource {
  readonly format = 'pickapic';
  readonly skipped = new Skipped();
  readonly warnings: string[] = [];

  constructor(
    readonly store: Files,
    readonly files: readonly string[],
  ) {}

  async *rows(): AsyncIterable<DataRow> {
    const prompts = new Prompts();
    for (const path of this.files) {
      const file = await ParquetFile.open(this.store, path);
      const missing = needed.filter((name) => !file.columns.includes(name));
      if (missing.length > 0) {
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `${path}: expected the columns ${needed.join(', ')}, got none named ` +
            `${missing.join(', ')} (it has ${shownColumns(file.columns)}).`,
        );
      }
      const labelled = file.columns.includes('has_label');
      for (let group = 0; group + 1 < file.groups.length; group++) {
        const columns = ['label_0', 'label_1', 'caption', ...(labelled ? ['has_label'] : [])];
        const start = file.groups[group] ?? 0;
        for (const [i, row] of (await file.readGroup(group, columns)).entries()) {
          const position = `${nameOf(path)}:${start + i}`;
          const winner = winnerOf(row);
          if (typeof winner === 'string') {
            this.skipped.add(winner, position);
            continue;
          }
          const caption = captionOf(row['caption'], `${position}: caption`);
          if (caption === null) {
            this.skipped.add('no caption', position);
            continue;
          }
          prompts.add(caption);
          yield {
            key: position,
            caption,
            image: { kind: 'cell', file: path, row: start + i, column: `jpg_${winner}` },
            rejected: { kind: 'cell', file: path, row: start + i, column: `jpg_${1 - winner}` },
            position,
          };
        }
      }
    }
    this.warnings.push(...prompts.warnings());
  }
}

/** Number of the preferred image, or why there is none. */
function winnerOf(row: Record<string, unknown>): 0 | 1 | 'no label' | 'tie' {
  if (row['has_label'] === false) return 'no label';
  const [first, second] = [row['label_0'], row['label_1']].map((label) =>
    label === null || label === undefined ? NaN : Number(label),
  );
  if (first === 1 && second === 0) return 0;
  if (first === 0 && second === 1) return 1;
  return first === second && !Number.isNaN(first) ? 'tie' : 'no label';
}
