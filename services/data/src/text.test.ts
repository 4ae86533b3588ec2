import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { localFiles, type Files } from './files.js';
import { longestLine } from './limits.js';
import { dataFolder } from './testing/data.js';
import { decodeText, readLines, readText } from './text.js';

const file = (bytes: Uint8Array | string): string => join(dataFolder({ 'a.txt': bytes }), 'a.txt');
const linesOf = async (bytes: Uint8Array | string, files: Files = localFiles) => {
  const lines: string[] = [];
  for await (const { text, line } of readLines(files, file(bytes))) {
    expect(line).toBe(lines.length + 1);
    lines.push(text);
  }
  return lines;
};
/** A store whose files come a byte at a time. */
const slowFiles: Files = {
  ...localFiles,
  async *stream(path) {
    for await (const chunk of localFiles.stream(path))
      for (const byte of chunk) yield Buffer.from([byte]);
  },
};
const utf16be = (text: string): Buffer => Buffer.from(`\uFEFF${text}`, 'utf16le').swap16();

describe('text', () => {
  it.each([
    ['UTF-8', Buffer.from('é\n大\n')],
    ['UTF-8 with a mark', Buffer.from('\uFEFFé\n大\n')],
    ['UTF-16 as Windows writes it', Buffer.from('\uFEFFé\n大\n', 'utf16le')],
    ['UTF-16, high bytes first', utf16be('é\n大\n')],
    ['lines that end as on Windows', Buffer.from('é\r\n大\r\n')],
    ['lines that end as on an old Mac', Buffer.from('é\r大\r')],
  ])('%s, whole and a byte at a time', async (_, bytes) => {
    expect(await linesOf(bytes)).toEqual(['é', '大']);
    expect(await linesOf(bytes, slowFiles)).toEqual(['é', '大']);
  });

  it('may be empty, or one character', async () => {
    expect(await linesOf('')).toEqual([]);
    expect(await readText(localFiles, file('x'), 1)).toBe('x');
    await expect(readText(localFiles, file('xy'), 1)).rejects.toThrow(
      'a.txt: expected a file of at most 1 bytes, got 2.',
    );
  });

  it('is read in lines of a bounded length, in time that grows with the text', async () => {
    const started = performance.now();
    const long = 'x'.repeat(longestLine);
    expect(await linesOf(`a\n${long}\nb`)).toEqual(['a', long, 'b']);
    await expect(linesOf(`a\n${long}x\nb`)).rejects.toThrow(
      `a.txt:2: expected a line of at most ${longestLine} characters, got a longer one.`,
    );
    expect(performance.now() - started).toBeLessThan(10_000);
  });

  it.each([
    ['Windows-1252', Buffer.from('ok\nok\ncaf\xe9\nok\n', 'latin1'), ':3: expected text in UTF-8'],
    ['a character that is cut off', Buffer.from([0x6f, 0x0a, 0xe5, 0xa4]), ':2: expected text'],
    [
      'UTF-16 without a mark',
      Buffer.from('ab\n', 'utf16le'),
      ':1: expected text in UTF-8, got a b',
    ],
    ['half of a pair', Buffer.from([0xff, 0xfe, 0x00, 0xd8, 0x41, 0x00]), 'text in UTF-16LE'],
  ])('is refused with its line: %s', async (_, bytes, message) => {
    await expect(linesOf(bytes)).rejects.toThrow(message);
    await expect(linesOf(bytes, slowFiles)).rejects.toThrow(message);
  });

  it('of its own file is named without a line', () => {
    expect(() => decodeText(Buffer.from([0xff]), 'a.tar: 1.txt')).toThrow(
      'a.tar: 1.txt: expected text in UTF-8, got bytes that are none',
    );
  });
});
