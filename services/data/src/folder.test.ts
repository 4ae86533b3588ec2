import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { localFiles } from './files.js';
import { openDataSource } from './open.js';
import { dataFolder, readAll } from './testing/data.js';

const line = (file_name: string, text = 'a picture'): string =>
  `${JSON.stringify({ file_name, text })}\n`;
const read = async (path: string) =>
  readAll(await openDataSource({ path, format: 'auto' }, localFiles));

describe('an image folder', () => {
  it('is read in the order of its metadata', async () => {
    const folder = dataFolder({
      'b.png': '',
      'sub/a.png': '',
      'metadata.jsonl': line('b.png', 'one') + line('sub/a.png', 'two'),
    });
    const { rows, warnings } = await read(folder);
    expect(rows).toEqual([
      {
        key: 'b.png',
        caption: 'one',
        image: { kind: 'file', file: join(folder, 'b.png') },
        position: 'metadata.jsonl:1',
      },
      {
        key: 'sub/a.png',
        caption: 'two',
        image: { kind: 'file', file: join(folder, 'sub', 'a.png') },
        position: 'metadata.jsonl:2',
      },
    ]);
    expect(warnings).toEqual([]);
  });

  it('may have its metadata as CSV with quotes and line breaks', async () => {
    const folder = dataFolder({
      'a.png': '',
      'metadata.csv': 'file_name,text\r\na.png,"said ""hi"",\nthen left"\r\n',
    });
    expect((await read(folder)).rows[0]?.caption).toBe('said "hi",\nthen left');
  });

  it('may have preference pairs in some rows, as JSON or CSV', async () => {
    const pair = JSON.stringify({
      file_name: 'a.png',
      rejected_file_name: 'worse/a.png',
      text: 'one',
    });
    for (const [name, text] of [
      ['metadata.jsonl', `${pair}\n${line('b.png', 'two')}`],
      ['metadata.csv', 'file_name,rejected_file_name,text\na.png,worse/a.png,one\nb.png,,two\n'],
    ] as const) {
      const folder = dataFolder({ 'a.png': '', 'b.png': '', 'worse/a.png': '', [name]: text });
      const { rows, warnings } = await read(folder);
      expect(rows.map(({ image, rejected }) => [image, rejected])).toEqual([
        [
          { kind: 'file', file: join(folder, 'a.png') },
          { kind: 'file', file: join(folder, 'worse', 'a.png') },
        ],
        [{ kind: 'file', file: join(folder, 'b.png') }, undefined],
      ]);
      expect(warnings).toEqual([]);
    }
  });

  it.each([
    ['worse.png', /expected a file for every row, got none for worse\.png \(line 1\)/],
    [
      '../worse.png',
      /metadata\.jsonl:1: rejected_file_name: expected a path inside the data folder, got "\.\.\/worse\.png"/,
    ],
    [7, /metadata\.jsonl:1: rejected_file_name: expected a string, got a number/],
  ])('refuses the rejected image %s', async (rejected, message) => {
    const row = JSON.stringify({ file_name: 'a.png', rejected_file_name: rejected, text: 'one' });
    await expect(read(dataFolder({ 'a.png': '', 'metadata.jsonl': row }))).rejects.toThrow(message);
  });

  it('may begin with a byte order mark', async () => {
    const folder = dataFolder({ 'a.png': '', 'metadata.jsonl': `\uFEFF${line('a.png')}` });
    expect((await read(folder)).rows).toHaveLength(1);
  });

  it('warns of images without a row', async () => {
    const folder = dataFolder({
      'a.png': '',
      'b.png': '',
      'lost.png': '',
      'notes.txt': '',
      'metadata.jsonl': line('a.png', '') + line('b.png', 'one two three four five six seven'),
    });
    expect((await read(folder)).warnings).toEqual([
      'data: 1 images have no row in the metadata and are not used: lost.png.',
    ]);
  });

  it('knows the usual names of its columns, in any case, and lists of captions', async () => {
    const jsonl = dataFolder({
      'a.png': '',
      'metadata.jsonl': '{"Image": "a.png", "caption": ["one", "two"]}\n',
    });
    const csv = dataFolder({ 'a.png': '', 'metadata.csv': 'File_Name,TEXT\na.png,one\n' });
    for (const folder of [jsonl, csv]) {
      expect((await read(folder)).rows.map(({ key, caption }) => [key, caption])).toEqual([
        ['a.png', 'one'],
      ]);
    }
  });

  it('says what there is where a row has no caption', async () => {
    const folder = dataFolder({
      'a.png': '',
      'metadata.jsonl': '{"file_name": "a.png", "tags": "x"}',
    });
    await expect(read(folder)).rejects.toThrow(
      ':1: text: expected a string, got only file_name, tags.',
    );
  });

  it("follows the links of a hub's cache, and no others", async () => {
    const hub = dataFolder({
      'blobs/0a': '',
      'elsewhere/b.png': '',
      'snapshots/abc/metadata.jsonl': line('a.png'),
    });
    symlinkSync('../../blobs/0a', join(hub, 'snapshots/abc/a.png'));
    expect((await read(join(hub, 'snapshots/abc'))).rows).toHaveLength(1);
    symlinkSync('../../elsewhere/b.png', join(hub, 'snapshots/abc/b.png'));
    writeFileSync(join(hub, 'snapshots/abc/metadata.jsonl'), line('b.png'));
    await expect(read(join(hub, 'snapshots/abc'))).rejects.toThrow(
      'expected a path inside the data folder, got "b.png", a link that leads out of it to',
    );
  });

  it('refuses a file that is no data set', async () => {
    const file = join(dataFolder({ 'metadata.jsonl': '' }), 'metadata.jsonl');
    await expect(read(file)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: `data.path: expected the folder of metadata.jsonl, got "${file}".`,
    });
  });

  it.each([
    ['no folder', null, 'which does not exist'],
    ['no metadata', { 'a.png': '' }, 'expected metadata.jsonl or metadata.csv, images with a .txt'],
    ['no rows', { 'metadata.jsonl': '\n' }, 'got an empty data set'],
    [
      'rows without a file',
      { 'a.png': '', 'metadata.jsonl': line('a.png') + line('gone.png') },
      'got none for gone.png (line 2)',
    ],
    [
      'a row that leaves the folder',
      { 'metadata.jsonl': line('../secret.png') },
      'metadata.jsonl:1: file_name: expected a path inside the data folder, got "../secret.png"',
    ],
    [
      'an absolute path',
      { 'metadata.jsonl': line('/etc/passwd') },
      'expected a path inside the data folder',
    ],
    [
      'a row that is no JSON',
      { 'metadata.jsonl': 'a.png, text\n' },
      'metadata.jsonl:1: expected one JSON object per line',
    ],
    [
      'a caption that is no text',
      { 'a.png': '', 'metadata.jsonl': '{"file_name": "a.png", "text": 3}\n' },
      'text: expected a string, got a number',
    ],
    [
      'a CSV without the columns',
      { 'metadata.csv': 'name,text\na.png,x\n' },
      'expected the columns file_name and text, got name, text',
    ],
    [
      'a CSV row of another length',
      { 'metadata.csv': 'file_name,text\na.png,x,y\n' },
      'metadata.csv:2: expected 2 fields, got 3',
    ],
    ['an open quote', { 'metadata.csv': 'file_name,text\na.png,"x\n' }, 'expected a closing quote'],
  ])('is refused with %s', async (_name, files, message) => {
    const folder = files === null ? '/nowhere/at/all' : dataFolder(files);
    await expect(read(folder)).rejects.toThrow(message);
  });

  it('is refused when a link leads out of it', async () => {
    const outside = dataFolder({ 'secret.png': '' });
    const folder = dataFolder({ 'metadata.jsonl': line('link.png') });
    symlinkSync(join(outside, 'secret.png'), join(folder, 'link.png'));
    await expect(read(folder)).rejects.toThrow('expected a path inside the data folder');
  });
});
