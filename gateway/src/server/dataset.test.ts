import { existsSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { localFiles, Manifest } from '@spindle/data';
import { openLocalStore } from '@spindle/mesh';
import { readDataSet } from './dataset.js';

function dataFolder(files: Record<string, string>): string {
  const folder = mkdtempSync(join(tmpdir(), 'spindle-data-'));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(folder, name, '..'), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
  return folder;
}

const line = (file_name: string, text = 'a picture'): string =>
  `${JSON.stringify({ file_name, text })}\n`;
const options = { textTokens: 8, heldOut: [] as string[] };

interface More {
  limit?: number;
  format?: 'csv';
  pairs?: boolean;
  heldOut?: string[];
}

async function read(path: string, more: More = {}) {
  const store = await openLocalStore(mkdtempSync(join(tmpdir(), 'spindle-store-')));
  return readDataSet(
    { path, format: more.format ?? 'auto' },
    { files: localFiles, store },
    { ...options, ...more, pairs: more.pairs ?? false },
  );
}

describe('a data set', () => {
  it('is warned about where held-out prompts are its captions, whatever their case', async () => {
    const folder = dataFolder({
      ...{ 'a.png': '', 'b.png': '' },
      'metadata.jsonl': line('a.png', 'A  Red star') + line('b.png', 'two'),
    });
    const { warnings } = await read(folder, { heldOut: ['a red star ', 'three', 'four'] });
    expect(warnings).toEqual([
      'evaluation.prompts: 1 of 3 prompts are training captions too, so scores say less about ' +
        'new prompts: "a red star ".',
    ]);
    expect((await read(folder, { heldOut: ['three'] })).warnings).toEqual([]);
  });

  it('becomes a manifest of its rows, which is removed when it is no longer needed', async () => {
    const folder = dataFolder({
      'b.png': '',
      'sub/a.png': '',
      'metadata.jsonl': line('b.png', 'one') + line('sub/a.png', 'two'),
    });
    const data = await read(folder);
    expect(data).toMatchObject({ rows: 2, warnings: [] });
    expect(
      (await (await Manifest.open(data.manifest)).rows(0, 2)).map(({ image, text }) => [
        image,
        text,
      ]),
    ).toEqual([
      [{ kind: 'file', file: join(folder, 'b.png') }, 'one'],
      [{ kind: 'file', file: join(folder, 'sub', 'a.png') }, 'two'],
    ]);
    await data[Symbol.asyncDispose]();
    expect(existsSync(data.manifest)).toBe(false);
  });

  it('keeps rejected images only where they are asked for', async () => {
    const pair = `${JSON.stringify({ file_name: 'a.png', rejected_file_name: 'worse/a.png', text: 'one' })}\n`;
    const folder = dataFolder({
      'a.png': '',
      'b.png': '',
      'worse/a.png': '',
      'metadata.jsonl': pair + line('b.png', 'two'),
    });
    const rejected = async (pairs: boolean) => {
      const data = await read(folder, { pairs });
      const rows = await (await Manifest.open(data.manifest)).rows(0, 2);
      return [data.pairs, data.warnings, rows.map((row) => row.rejected)];
    };
    expect(await rejected(true)).toEqual([
      1,
      [],
      [{ kind: 'file', file: join(folder, 'worse', 'a.png') }, undefined],
    ]);
    expect(await rejected(false)).toEqual([0, [], [undefined, undefined]]);
  });

  it('can be cut to its first rows', async () => {
    const folder = dataFolder({
      'a.png': '',
      'b.png': '',
      'metadata.jsonl': line('a.png') + line('b.png'),
    });
    expect(await read(folder, { limit: 1 })).toMatchObject({ rows: 1, warnings: [] });
    expect(await read(folder, { limit: 3 })).toMatchObject({
      rows: 2,
      warnings: ['data.limit: 3 rows were asked for, the data set has 2.'],
    });
    writeFileSync(join(folder, 'metadata.jsonl'), line('a.png') + line('../secret.png'));
    await expect(read(folder, { limit: 1 })).rejects.toThrow(
      'metadata.jsonl:2: file_name: expected a path inside the data folder',
    );
  });

  it('warns of rows it does not use, empty captions and captions that are too long', async () => {
    const folder = dataFolder({
      'a.png': '',
      'rows.csv': 'image,text\na.png,\na.png,one two three four five six seven\n,no image\n',
    });
    expect((await read(join(folder, 'rows.csv'))).warnings).toEqual([
      'data: 1 rows are not used (no image): rows.csv:4.',
      'data: 1 captions are empty.',
      "data: at least 1 captions are longer than the text encoder's 8 tokens; they will be cut.",
    ]);
  });

  it('is refused without a row that can be used', async () => {
    const file = join(dataFolder({ 'rows.csv': 'image,text\n,one\n' }), 'rows.csv');
    await expect(read(file)).rejects.toThrow(
      `data.path: ${file}: expected at least one row, got none (1 × no image).`,
    );
  });
});
