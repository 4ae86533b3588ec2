/**
 * Headers of an uncompressed tar file (ustar, pax, GNU long names): what lies in it and where,
 * without reading the members.
 */
import { brief, SpindleError } from '@spindle/kit';
import { Window, type Files } from './files.js';
import { shortened } from './rows.js';

export interface TarMember {
  name: string;
  /** Of the first byte of its data. */
  offset: number;
  bytes: number;
}

const block = 512;
/** Headers of small members, and the captions between images, come with one read. */
const localChunk = 1 << 14;
/** Over a network a read costs more than the bytes. */
const remoteChunk = 1 << 22;
const longestName = 1 << 16;
/** Digits of a pax record's length. */
const longestLength = 10;

export interface Tar {
  members(): AsyncIterable<TarMember>;
  /** Data of a member that members() has just given. */
  read(member: TarMember): Promise<Buffer>;
}

export function openTar(files: Files, path: string): Tar {
  const window = new Window(files, path, path.startsWith('s3://') ? remoteChunk : localChunk);
  return {
    members: () => walk(window, path),
    read: async ({ offset, bytes }) => Buffer.from(await window.at(offset, bytes)),
  };
}

async function* walk(window: Window, path: string): AsyncIterable<TarMember> {
  const size = (await window.files.find(path))?.bytes ?? 0;
  let longName: string | undefined;
  let longSize: number | undefined;
  let at = 0;
  while (at < size) {
    const header = await window.at(at, block);
    if (header.length === block && header.every((byte) => byte === 0)) return;
    checkHeader(header, path, at);
    const type = String.fromCharCode(header[156] ?? 0);
    const bytes =
      longSize !== undefined && isFile(type)
        ? longSize
        : readNumber(header.subarray(124, 136), path, at);
    const offset = at + block;
    at = offset + Math.ceil(bytes / block) * block;
    if (type === 'x' || type === 'L') {
      if (bytes > longestName)
        throw bad(
          path,
          offset - block,
          `an extended header of at most ${longestName} bytes`,
          String(bytes),
        );
      const data = await window.at(offset, bytes);
      if (type === 'L') longName = readString(data);
      else {
        const records = paxRecords(data);
        longName = records.get('path') ?? longName;
        longSize = sizeOf(records.get('size'), path, offset - block);
      }
      continue;
    }
    if (isFile(type)) {
      if (offset + bytes > size)
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `${path}: expected ${bytes} bytes of "${shortened(longName ?? nameOf(header))}" at byte ` +
            `${offset}, got a file that ends at ${size}; it was cut short.`,
        );
      yield { name: longName ?? nameOf(header), offset, bytes };
    }
    if (type !== 'g') longName = longSize = undefined;
  }
  if (at > size)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${path}: expected at least ${at} bytes, got a file that ends at ${size}; it was cut short.`,
    );
}

function isFile(type: string): boolean {
  return type === '0' || type === '\0' || type === '7';
}

function nameOf(header: Buffer): string {
  const ustar = header.toString('latin1', 257, 262) === 'ustar';
  const prefix = ustar ? readString(header.subarray(345, 500)) : '';
  const name = readString(header.subarray(0, 100));
  return prefix === '' ? name : `${prefix}/${name}`;
}

function readString(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString('utf8', 0, end === -1 ? bytes.length : end);
}

/** Octal digits, or GNU's big-endian binary for files of 8 GiB and more. */
function readNumber(field: Buffer, path: string, at: number): number {
  if ((field[0] ?? 0) & 0x80)
    return field.subarray(1).reduce((value, byte) => value * 256 + byte, (field[0] ?? 0) & 0x7f);
  const text = readString(field).trim();
  if (!/^[0-7]*$/.test(text)) throw bad(path, at, 'a size in octal digits', brief(text));
  return text === '' ? 0 : parseInt(text, 8);
}

/** Decimal digits: anything else would end the file early, or begin it again. */
function sizeOf(text: string | undefined, path: string, at: number): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw bad(path, at, 'a size in decimal digits', brief(text));
}

function checkHeader(header: Buffer, path: string, at: number): void {
  if (header[0] === 0x1f && header[1] === 0x8b)
    throw bad(path, at, 'an uncompressed tar file', 'a gzip file; unpack it with gunzip');
  if (header.length < block)
    throw bad(
      path,
      at,
      `a tar header of ${block} bytes`,
      `${header.length} bytes up to the end of the file`,
    );
  let sum = 0;
  header.forEach((byte, i) => (sum += i >= 148 && i < 156 ? 0x20 : byte));
  const stated = parseInt(readString(header.subarray(148, 156)).trim(), 8);
  if (sum !== stated)
    throw bad(path, at, 'a tar header', 'bytes whose checksum is not the stated one');
}

/** "<length> <key>=<value>\n", where the length counts the whole record in bytes. */
function paxRecords(data: Buffer): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < data.length; ) {
    const space = data.indexOf(0x20, at);
    if (space === -1 || space > at + longestLength) break;
    const digits = data.toString('latin1', at, space);
    const length = /^\d+$/.test(digits) ? Number(digits) : 0;
    // A record holds its own length.
    if (at + length <= space) break;
    const record = data.toString('utf8', space + 1, at + length - 1);
    const equals = record.indexOf('=');
    if (equals > 0) records.set(record.slice(0, equals), record.slice(equals + 1));
    at += length;
  }
  return records;
}

function bad(path: string, at: number, expected: string, got: string): SpindleError {
  return new SpindleError(
    'INVALID_ARGUMENT',
    `${path}: byte ${at}: expected ${expected}, got ${got}.`,
  );
}
