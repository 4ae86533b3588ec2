import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openFiles } from './s3-files.js';
import { openDataSource } from './open.js';
import { readPromptSet } from './prompt-set.js';
import { shownColumns } from './shown.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'spindle-shown-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

it.each([
  [['picture', 'text'], 'picture, text'],
  [['Bild Nr. 1', 'größe_px'], 'Bild Nr. 1, größe_px'],
  [['Prompt'], 'Prompt'],
  [['SECRET-TOKEN-1234'], '1 column, and a first line that does not look like a header'],
  [['root:x:0:0', 'root'], '2 columns, and a first line that does not look like a header'],
  [['a', 'x'.repeat(41)], '2 columns, and a first line that does not look like a header'],
  [['a', ''], '2 columns, and a first line that does not look like a header'],
])('of the columns %j is shown: %s', (columns, shown) => {
  expect(shownColumns(columns)).toBe(shown);
});

/** Files that are something else than they are said to be. */
const secret = 'hunter2-correct-horse';
const contents = [
  secret,
  `${secret}\n`,
  `user:${secret}:0,x\n1,2`,
  `{"file_name": "${secret}"`,
  `{"file_name": 1, "text": "${secret}"}`,
  `{"file_name": "a.png", "text": {"a": "${secret}"}}`,
  `[{"a": "${secret}"}]`,
  `["fine", ["${secret}"]]`,
  `{"a": "${secret}"}`,
  `"${secret}`,
];

describe.each(contents)('a file with the content %s', (content) => {
  it.each(['csv', 'tsv', 'jsonl', 'json', 'parquet'])(
    'is refused as .%s without a word of it',
    async (ext) => {
      const file = join(folder, `file.${ext}`);
      await writeFile(file, content);
      await writeFile(join(folder, 'metadata.jsonl'), content);
      const said: string[] = [];
      const listen = async (act: () => Promise<unknown>): Promise<void> => {
        await act().catch((error: unknown) => {
          for (let e = error; e instanceof Error; e = e.cause) said.push(e.message);
        });
      };
      const formats = ['csv', 'parquet', 'folder', 'prompts', 'webdataset', 'pickapic'] as const;
      for (const format of formats)
        await listen(async () => {
          const path = format === 'folder' ? folder : file;
          const source = await openDataSource({ path, format }, openFiles());
          for await (const row of source.rows()) expect(row.caption).toBeDefined();
        });
      await listen(() => readPromptSet(openFiles(), file));
      expect(said.length).toBeGreaterThan(3);
      expect(said.join('\n')).not.toContain(secret);
    },
  );
});
