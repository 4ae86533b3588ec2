import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { captionOf } from './columns.js';
import { localFiles } from './files.js';
import { longestCaption, longestLine } from './limits.js';
import { parseManifestLine } from './manifest.js';
import { openDataSource, type DataSpec } from './open.js';
import { readPromptSet } from './prompt-set.js';
import { dataFolder, readAll } from './testing/data.js';
import { tarOf } from './testing/tar.js';

const read = async (path: string, spec: Partial<DataSpec> = {}) =>
  readAll(await openDataSource({ path, format: 'auto', ...spec }, localFiles));
const tooLong = 'y'.repeat(longestCaption + 1);
const refusal = `expected a text of at most ${longestCaption} characters, got ${longestCaption + 1}`;
/** JSON.parse reads it; JSON.stringify and functions that call themselves do not go through. */
const deep = '['.repeat(100_000) + ']'.repeat(100_000);

describe('a caption that is no caption', () => {
  const json = JSON.stringify({ file_name: 'a.png', text: tooLong });
  it.each<[string, Record<string, string | Uint8Array>, string, Partial<DataSpec>]>([
    ['in metadata.jsonl', { 'metadata.jsonl': json, 'a.png': '' }, '', {}],
    [
      'in metadata.csv',
      { 'metadata.csv': `file_name,text\na.png,${tooLong}`, 'a.png': '' },
      '',
      {},
    ],
    ['in a table', { 'a.csv': `image,caption\na.png,${tooLong}`, 'a.png': '' }, 'a.csv', {}],
    [
      'in a shard',
      {
        'a.tar': tarOf([
          ['a.txt', tooLong],
          ['a.png', 'x'],
        ]),
      },
      'a.tar',
      {},
    ],
    [
      'in JSON of a shard',
      {
        'a.tar': tarOf([
          ['a.json', JSON.stringify({ text: tooLong })],
          ['a.png', 'x'],
        ]),
      },
      'a.tar',
      {},
    ],
    ['in a list of prompts', { 'p.txt': tooLong, 'a.png': '' }, 'p.txt', { images: '.' }],
    [
      'in JSON lines',
      { 'p.jsonl': JSON.stringify([tooLong][0]), 'a.png': '' },
      'p.jsonl',
      { images: '.' },
    ],
  ])('%s is refused with its place', async (_, files, name, spec) => {
    const folder = dataFolder(files);
    const images = spec.images === undefined ? undefined : folder;
    await expect(read(join(folder, name), { images })).rejects.toThrow(refusal);
  });

  it('may be in lists without end', () => {
    expect(captionOf(JSON.parse(deep), 'x')).toBeNull();
    expect(captionOf([['a'], 'b'], 'x')).toBe('a');
  });
});

it('a path without end is refused, not repeated', async () => {
  const name = `${'a/'.repeat(10_000)}b.png`;
  const folder = dataFolder({ 'a.csv': `image,caption\n${name},x` });
  await expect(read(join(folder, 'a.csv'))).rejects.toThrow(
    'got one of 20005 characters (at most 1024 are taken)',
  );
});

describe('values that cannot be written', () => {
  it.each([
    [
      'metadata.jsonl',
      `{"file_name":"a.png","text":{"a":${deep}}}`,
      '',
      'expected a string, got an object',
    ],
    ['p.jsonl', deep, 'p.jsonl', 'expected a string or {prompt}, got a list'],
    ['p.json', `{"a":{"b":${deep}}}`, 'p.json', 'expected a list of prompts, got an object'],
    [
      'p.json',
      `[{"prompt":"x","category":${deep}}]`,
      'p.json',
      'category: expected a string, got a list',
    ],
  ])('are told in short: %s', async (file, text, name, message) => {
    const folder = dataFolder({ [file]: text, 'a.png': '' });
    const images = name === '' ? undefined : folder;
    await expect(read(join(folder, name), { images })).rejects.toThrow(message);
  });

  it('are no rejected image', () => {
    expect(() => parseManifestLine('{"file":"a","text":"b","rejected":null}', 3)).toThrow(
      'manifest row 3: expected {"file"',
    );
  });
});

describe('files that were made up to take time', () => {
  it.each(['-1024', '1e3', '', 'x', '1024.5', 'Infinity', '99999999999999999'])(
    'a tar with a size of %j is neither read again nor cut short',
    async (size) => {
      const folder = dataFolder({
        'a.tar': tarOf([['a.png', 'x']], { size }),
      });
      await expect(read(join(folder, 'a.tar'))).rejects.toThrow(
        'a.tar: byte 0: expected a size in decimal digits, got',
      );
    },
  );

  it('a pax header of lengths that are no lengths', async () => {
    const started = performance.now();
    const records = `${'0'.repeat(60_000)}1 `;
    const folder = dataFolder({ 'a.tar': tarOf(Array(50).fill(['a.png', 'x', records])) });
    mkdirSync(join(folder, 'out'));
    await read(join(folder, 'a.tar'));
    expect(performance.now() - started).toBeLessThan(5_000);
  });

  it('a quote that is not closed', async () => {
    const file = join(dataFolder({}), 'a.csv');
    writeFileSync(file, `image,caption\na.png,"${'z'.repeat(longestLine)}`);
    await expect(read(file)).rejects.toThrow(
      `a.csv:2: expected a record of at most ${longestLine} characters, got a longer one.`,
    );
  });
});

describe('held-out prompts', () => {
  it('are read as far as they are asked for', async () => {
    const folder = dataFolder({ 'p.jsonl': '"a"\n"b"\nno JSON\n', 'p.csv': 'prompt\na\na\nb\n"' });
    for (const name of ['p.jsonl', 'p.csv']) {
      const file = join(folder, name);
      expect(
        (await readPromptSet(localFiles, file, { limit: 2 })).map(({ prompt }) => prompt),
      ).toEqual(['a', 'b']);
      await expect(readPromptSet(localFiles, file, { limit: 3 })).rejects.toThrow(`${name}:`);
    }
  });

  it('of one JSON file have a size', async () => {
    const file = join(dataFolder({}), 'p.json');
    writeFileSync(file, Buffer.alloc((64 << 20) + 1, ' '));
    await expect(readPromptSet(localFiles, file)).rejects.toThrow(
      'p.json: expected a file of at most 67108864 bytes, got 67108865.',
    );
  });
});
