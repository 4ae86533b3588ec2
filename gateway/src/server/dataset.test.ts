import { mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readDataSet } from './dataset.js';
import { readPrompts } from './prompts.js';

function dataFolder(files: Record<string, string>): string {
  const folder = mkdtempSync(join(tmpdir(), 'spindle-data-'));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(folder, name, '..'), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
  return folder;
}

const line = (file_name: string, text = 'a picture'): string => `${JSON.stringify({ file_name, text })}\n`;
const options = { textTokens: 8 };

describe('an image folder', () => {
  it('is read in the order of its metadata', async () => {
    const folder = dataFolder({ 'b.png': '', 'sub/a.png': '', 'metadata.jsonl': line('b.png', 'one') + line('sub/a.png', 'two') });
    const { rows, warnings } = await readDataSet(folder, options);
    expect(rows).toEqual([
      { file: join(folder, 'b.png'), text: 'one' },
      { file: join(folder, 'sub', 'a.png'), text: 'two' },
    ]);
    expect(warnings).toEqual([]);
  });

  it('may have its metadata as CSV with quotes and line breaks', async () => {
    const folder = dataFolder({ 'a.png': '', 'metadata.csv': 'file_name,text\r\na.png,"said ""hi"",\nthen left"\r\n' });
    expect((await readDataSet(folder, options)).rows[0]?.text).toBe('said "hi",\nthen left');
  });

  it('may begin with a byte order mark', async () => {
    const folder = dataFolder({ 'a.png': '', 'metadata.jsonl': `\uFEFF${line('a.png')}` });
    expect((await readDataSet(folder, options)).rows).toHaveLength(1);
  });

  it('can be cut to its first rows', async () => {
    const folder = dataFolder({ 'a.png': '', 'b.png': '', 'metadata.jsonl': line('a.png') + line('b.png') });
    expect((await readDataSet(folder, { ...options, limit: 1 })).rows).toHaveLength(1);
  });

  it('warns of images without a row, empty captions and captions that are too long', async () => {
    const folder = dataFolder({
      'a.png': '',
      'b.png': '',
      'lost.png': '',
      'notes.txt': '',
      'metadata.jsonl': line('a.png', '') + line('b.png', 'one two three four five six seven'),
    });
    expect((await readDataSet(folder, options)).warnings).toEqual([
      'data: 1 images have no row in the metadata and are not used: lost.png.',
      'data: 1 captions are empty.',
      "data: at least 1 captions are longer than the text encoder's 8 tokens; they will be cut.",
    ]);
  });

  it('refuses a file in the place of the folder', async () => {
    const file = join(dataFolder({ 'metadata.jsonl': '' }), 'metadata.jsonl');
    await expect(readDataSet(file, options)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: `data.path: expected a folder, got the file "${file}".`,
    });
  });

  it.each([
    ['no folder', null, 'which does not exist'],
    ['no metadata', { 'a.png': '' }, 'expected metadata.jsonl or metadata.csv'],
    ['no rows', { 'metadata.jsonl': '\n' }, 'got an empty data set'],
    ['rows without a file', { 'a.png': '', 'metadata.jsonl': line('a.png') + line('gone.png') }, 'got none for gone.png (line 2)'],
    [
      'a row that leaves the folder',
      { 'metadata.jsonl': line('../secret.png') },
      'metadata.jsonl:1: file_name: expected a path inside the data folder, got "../secret.png"',
    ],
    ['an absolute path', { 'metadata.jsonl': line('/etc/passwd') }, 'expected a path inside the data folder'],
    ['a row that is no JSON', { 'metadata.jsonl': 'a.png, text\n' }, 'metadata.jsonl:1: expected one JSON object per line'],
    [
      'a caption that is no text',
      { 'a.png': '', 'metadata.jsonl': '{"file_name": "a.png", "text": 3}\n' },
      'text: expected a string, got 3',
    ],
    ['a CSV without the columns', { 'metadata.csv': 'name,text\na.png,x\n' }, 'expected the columns file_name and text, got name, text'],
    ['a CSV row of another length', { 'metadata.csv': 'file_name,text\na.png,x,y\n' }, 'metadata.csv:2: expected 2 fields, got 3'],
    ['an open quote', { 'metadata.csv': 'file_name,text\na.png,"x\n' }, 'expected a closing quote'],
  ])('is refused with %s', async (_name, files, message) => {
    const folder = files === null ? '/nowhere/at/all' : dataFolder(files);
    await expect(readDataSet(folder, options)).rejects.toThrow(message);
  });

  it('is refused when a link leads out of it', async () => {
    const outside = dataFolder({ 'secret.png': '' });
    const folder = dataFolder({ 'metadata.jsonl': line('link.png') });
    symlinkSync(join(outside, 'secret.png'), join(folder, 'link.png'));
    await expect(readDataSet(folder, options)).rejects.toThrow('expected a path inside the data folder');
  });
});

describe('prompts', () => {
  it('are lines of text, or JSON', async () => {
    const folder = dataFolder({ 'p.txt': 'one\n\n two \n', 'p.json': '["one", {"prompt": "two"}]', 'bad.json': '[3]', 'empty.txt': '\n' });
    expect(await readPrompts(join(folder, 'p.txt'), undefined)).toEqual(['one', 'two']);
    expect(await readPrompts(join(folder, 'p.json'), undefined)).toEqual(['one', 'two']);
    expect(await readPrompts(join(folder, 'p.txt'), 1)).toEqual(['one']);
    await expect(readPrompts(join(folder, 'bad.json'), undefined)).rejects.toThrow('entry 0: expected a string or {prompt}, got 3');
    await expect(readPrompts(join(folder, 'empty.txt'), undefined)).rejects.toThrow('expected at least one prompt');
    await expect(readPrompts(join(folder, 'none.txt'), undefined)).rejects.toThrow('cannot be read');
  });
});
