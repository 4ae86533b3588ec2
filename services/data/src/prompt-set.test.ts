import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { localFiles } from './files.js';
import { readPromptSet, type PromptColumns } from './prompt-set.js';
import { dataFolder } from './testing/data.js';

const fixtures = fileURLToPath(new URL('../fixtures/', import.meta.url));
const read = (files: Record<string, string | Uint8Array>, columns?: PromptColumns) => {
  const [name = ''] = Object.keys(files);
  return readPromptSet(localFiles, join(dataFolder(files), name), { ...(columns && { columns }) });
};
const plain = (...prompts: string[]) => prompts.map((prompt) => ({ prompt, category: '' }));

describe('prompts', () => {
  it('are lines of text', async () => {
    expect(await read({ 'p.txt': '\uFEFFone\n\n two \none\n' })).toEqual(
      plain('one', 'two', 'one'),
    );
  });

  it('are JSON: strings, objects with a category, or lists by category', async () => {
    expect(await read({ 'p.json': '["one", {"prompt": "two", "category": "anime"}]' })).toEqual([
      ...plain('one'),
      { prompt: 'two', category: 'anime' },
    ]);
    expect(await read({ 'p.json': '{"anime": ["a"], "photo": ["b", "c"]}' })).toEqual([
      { prompt: 'a', category: 'anime' },
      { prompt: 'b', category: 'photo' },
      { prompt: 'c', category: 'photo' },
    ]);
  });

  it('are JSON lines, text in UTF-16, or lines of an old Mac', async () => {
    const jsonl = '{"prompt": "a"}\n\n"b"\n{"text": "c", "style": "photo"}\n';
    expect(await read({ 'p.jsonl': jsonl })).toEqual([
      ...plain('a', 'b'),
      { prompt: 'c', category: 'photo' },
    ]);
    expect(await read({ 'p.txt': Buffer.from('\uFEFFa\r\nb\r\n', 'utf16le') })).toEqual(
      plain('a', 'b'),
    );
    expect(await read({ 'p.txt': 'a\rb' })).toEqual(plain('a', 'b'));
    expect(await read({ 'p.csv': 'prompt\ra\rb' })).toEqual(plain('a', 'b'));
    await expect(read({ 'p.jsonl': '"a"\n{"q": 1}\n' })).rejects.toThrow(
      'p.jsonl:2: expected a string or {prompt}, got an object.',
    );
  });

  it('are columns of a table, each prompt once', async () => {
    const tsv = 'Prompt\tCategory\tNote\none\tAnimals\tx\ntwo\tArts\t\none\tArts\ty\n';
    expect(await read({ 'parti.tsv': tsv })).toEqual([
      { prompt: 'one', category: 'Animals' },
      { prompt: 'two', category: 'Arts' },
    ]);
    expect(
      await read({ 'p.csv': 'q,caption\n"a, b",c\n' }, { prompt: 'q', category: 'caption' }),
    ).toEqual([{ prompt: 'a, b', category: 'c' }]);
  });

  it('are a column of a parquet file, over its row groups, each prompt once and empty ones left out', async () => {
    const captions = [
      'a red fox',
      'a tie',
      'a house by the sea',
      'ein Fahrrad, größer als ein Haus',
      'nobody looked',
      'another tie',
    ];
    const last = 'last row of the third group';
    const file = join(fixtures, 'pickapic.parquet');
    expect(await readPromptSet(localFiles, file)).toEqual(plain(...captions, last));
    const named = await readPromptSet(localFiles, file, {
      columns: { prompt: 'model_1', category: 'caption' },
    });
    expect(named).toEqual([{ prompt: 'stabilityai/stable-diffusion-2-1', category: 'a red fox' }]);
    // Its column is called prompt.
    expect(await readPromptSet(localFiles, join(fixtures, 'paths.parquet'))).toEqual(
      plain('one', 'two', 'three'),
    );
    await expect(
      readPromptSet(localFiles, join(fixtures, 'paths.parquet'), {
        columns: { prompt: 'caption' },
      }),
    ).rejects.toThrow(
      'paths.parquet: evaluation.prompt_column: expected one of file_name, prompt, got "caption".',
    );
  });

  it.each([
    [{ 'p.json': '[3]' }, undefined, 'entry 0: expected a string or {prompt}, got a number'],
    [{ 'p.json': '{"a": 1}' }, undefined, 'a: expected a list of prompts, got a number'],
    [
      { 'p.json': '{' },
      undefined,
      'expected a JSON array of prompts, got text that does not parse',
    ],
    [{ 'p.txt': '\n' }, undefined, 'expected at least one prompt, got none'],
    [
      { 'p.parquet': 'PAR' },
      undefined,
      'p.parquet: expected a parquet file, got one that does not decode',
    ],
    [{ 'p.csv': 'a,b\n1,2\n' }, undefined, 'expected a column prompt, caption, text, got a, b'],
    [
      { 'p.csv': 'prompt\nx\n' },
      { category: 'style' },
      'evaluation.category_column: expected one of prompt, got "style"',
    ],
  ] as [Record<string, string>, PromptColumns | undefined, string][])(
    'refuses %j',
    async (files, columns, message) => {
      await expect(read(files, columns)).rejects.toThrow(message);
    },
  );

  it('refuses a file that is not there', async () => {
    await expect(readPromptSet(localFiles, '/none.txt')).rejects.toThrow(
      'evaluation.prompts: expected a file, got "/none.txt", which cannot be read.',
    );
  });
});
