/** Reading of safetensors: whole files in memory, or a file's header alone. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { ensureError, SpindleError } from '../errors.js';
import { headerLength, parseHeader, prefixBytes, type TensorHeader } from './header.js';
import type { TensorEntry } from './values.js';

/** All tensors of a file's bytes, as views of them. */
export function readSafetensors(
  buffer: Buffer,
  where: string,
): { tensors: Map<string, TensorEntry>; metadata: Record<string, string> } {
  const length = headerLength(buffer.subarray(0, prefixBytes), buffer.byteLength, where);
  const json = buffer.subarray(prefixBytes, prefixBytes + length);
  const header = parseHeader(json, buffer.byteLength, where);
  const tensors = new Map<string, TensorEntry>();
  for (const [name, { dtype, shape, begin, end }] of header.tensors) {
    const data = buffer.subarray(header.dataStart + begin, header.dataStart + end);
    tensors.set(name, { dtype, shape, data });
  }
  return { tensors, metadata: header.metadata };
}

/** Names, types, shapes and places of a file's tensors, without its data. */
export function readSafetensorsHeader(path: string): TensorHeader {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (cause) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${path}: expected a safetensors file, got ${ensureError(cause).message}`,
      { cause },
    );
  }
  try {
    return readOpenHeader(file, path);
  } finally {
    closeSync(file);
  }
}

/** The header of a file that is open; `where` names it in messages. */
export function readOpenHeader(file: number, where: string): TensorHeader {
  const { size } = fstatSync(file);
  const length = headerLength(readBytes(file, 0, prefixBytes), size, where);
  return parseHeader(readBytes(file, prefixBytes, length), size, where);
}

/** As many of the bytes as the file has. */
function readBytes(file: number, at: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const count = readSync(file, bytes, done, length - done, at + done);
    if (count === 0) break;
    done += count;
  }
  return bytes.subarray(0, done);
}
