/**
 * Text of a data set's files: UTF-8, or UTF-16 with a byte order mark (as Windows writes it). Bytes
 * that are neither are refused with their line; they are never replaced.
 */
import { TextDecoder } from 'node:util';
import { SpindleError } from '@spindle/kit';
import type { Files } from './files.js';
import { longestLine } from './limits.js';

type Encoding = 'utf-8' | 'utf-16le' | 'utf-16be';

/** By the byte order mark; without one it is UTF-8. */
function encodingOf(bytes: Uint8Array): Encoding {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return 'utf-16le';
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return 'utf-16be';
  return 'utf-8';
}

/** The whole of a short text, such as a caption of its own file. `where` names it in messages. */
export function decodeText(bytes: Uint8Array, where: string): string {
  const decoder = new LineDecoder(where, false);
  return decoder.push(bytes) + decoder.end();
}

/** A whole file of at most so many bytes. */
export async function readText(files: Files, path: string, mostBytes: number): Promise<string> {
  const bytes = (await files.find(path))?.bytes ?? 0;
  if (bytes > mostBytes)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${path}: expected a file of at most ${mostBytes} bytes, got ${bytes}.`,
    );
  const parts: string[] = [];
  for await (const text of textChunks(files, path)) parts.push(text);
  return parts.join('');
}

/** A file's text in pieces as they come, without a byte order mark. */
export async function* textChunks(files: Files, path: string): AsyncIterable<string> {
  const decoder = new LineDecoder(path, true);
  for await (const chunk of files.stream(path)) yield decoder.push(chunk);
  yield decoder.end();
}

/** Lines of a text without their ends ("\n", "\r\n" or "\r"), counted from 1. */
export async function* readLines(
  files: Files,
  path: string,
): AsyncIterable<{ text: string; line: number }> {
  /** Of a line that has not ended yet. */
  let parts: string[] = [];
  let length = 0;
  let line = 1;
  let carriage = false;
  const add = (part: string): void => {
    length += part.length;
    if (length > longestLine)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${path}:${line}: expected a line of at most ${longestLine} characters, got a longer one.`,
      );
    parts.push(part);
  };
  for await (const chunk of textChunks(files, path)) {
    // A "\r" at the end may be the first half of "\r\n".
    const text: string = carriage ? `\r${chunk}` : chunk;
    carriage = text.endsWith('\r');
    const lines = (carriage ? text.slice(0, -1) : text).split(lineEnd);
    const rest = lines.pop() ?? '';
    for (const one of lines) {
      add(one);
      yield { text: parts.join(''), line: line++ };
      [parts, length] = [[], 0];
    }
    add(rest);
  }
  if (length > 0 || carriage) yield { text: parts.join(''), line };
}

/** The ends of lines: Unix's, Windows' and the old Mac's. */
const lineEnd = /\r\n|\n|\r/;

/** Decodes pieces of a text and counts their lines, so that a message can name the bad one. */
class LineDecoder {
  #decoder: TextDecoder | undefined;
  #encoding: Encoding = 'utf-8';
  #head: Uint8Array = new Uint8Array(0);
  /** Bytes of a character that the next piece completes. */
  #pending: Uint8Array = new Uint8Array(0);
  #lines = 1;

  /** `numbered`: messages name the line. */
  constructor(
    readonly where: string,
    readonly numbered: boolean,
  ) {}

  push(chunk: Uint8Array): string {
    if (this.#decoder === undefined) {
      const bytes = join(this.#head, chunk);
      if (bytes.length < 2) {
        this.#head = bytes;
        return '';
      }
      return this.#begin(bytes);
    }
    return this.#decode(chunk, true);
  }

  end(): string {
    const text = this.#decoder === undefined ? this.#begin(this.#head) : '';
    return text + this.#decode(new Uint8Array(0), false);
  }

  #begin(bytes: Uint8Array): string {
    this.#encoding = encodingOf(bytes);
    this.#decoder = new TextDecoder(this.#encoding, { fatal: true });
    return this.#decode(bytes, true);
  }

  #decode(bytes: Uint8Array, stream: boolean): string {
    let text: string;
    try {
      text = this.#decoder?.decode(bytes, { stream }) ?? '';
    } catch (cause) {
      throw this.#refused(this.#lineOfBadBytes(bytes), `bytes that are none`, cause);
    }
    const nul = text.indexOf('\0');
    if (nul !== -1) throw this.#refused(this.#lines + count(text.slice(0, nul)), 'a byte 0');
    this.#lines += count(text);
    this.#pending = stream ? tail(bytes) : new Uint8Array(0);
    return text;
  }

  /** The first line that does not decode by itself. */
  #lineOfBadBytes(bytes: Uint8Array): number {
    const all = join(this.#pending, bytes);
    if (this.#encoding !== 'utf-8') return this.#lines;
    let line = this.#lines;
    for (let begin = 0; begin < all.length; line++) {
      const found = all.indexOf(10, begin);
      const end = found === -1 ? all.length : found + 1;
      try {
        new TextDecoder('utf-8', { fatal: true }).decode(all.subarray(begin, end));
      } catch {
        return line;
      }
      begin = end;
    }
    return line;
  }

  #refused(line: number, got: string, cause?: unknown): SpindleError {
    const place = this.numbered ? `${this.where}:${line}` : this.where;
    const encoding = this.#encoding.toUpperCase();
    const way =
      this.#encoding === 'utf-8' ? '; save it as UTF-8, for example with iconv -t utf-8' : '';
    return new SpindleError(
      'INVALID_ARGUMENT',
      `${place}: expected text in ${encoding}, got ${got}${way}.`,
      { cause },
    );
  }
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  return a.length === 0 ? b : Buffer.concat([a, b]);
}

function count(text: string): number {
  return text.split('\n').length - 1;
}

/** At most three bytes can belong to a character that has not ended. */
function tail(bytes: Uint8Array): Uint8Array {
  let begin = bytes.length;
  while (begin > 0 && bytes.length - begin < 3 && (bytes[begin - 1] ?? 0) >= 0x80) begin--;
  const last = bytes.subarray(begin);
  const lead = last.findIndex((byte) => byte >= 0xc0);
  return lead === -1 ? new Uint8Array(0) : last.slice(lead);
}
