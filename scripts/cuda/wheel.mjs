// Reads a wheel (a zip archive): its table of contents, and single files of it.
import { closeSync, createWriteStream, fstatSync, mkdirSync, openSync, readSync } from 'node:fs';
import { createReadStream } from 'node:fs';
import { dirname } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createInflateRaw } from 'node:zlib';

const endOfDirectory = 0x06054b50;
const directoryEntry = 0x02014b50;
const localHeader = 0x04034b50;

function read(fd, position, length) {
  const buffer = Buffer.alloc(length);
  if (readSync(fd, buffer, 0, length, position) !== length)
    throw new Error('the archive ends too early');
  return buffer;
}

/**
 * The files of a zip archive: [{ name, method, compressed, size, offset }]. Throws a plain Error
 * when it is none.
 */
export function readDirectory(path) {
  const fd = openSync(path, 'r');
  try {
    const { size } = fstatSync(fd);
    const tail = read(fd, Math.max(0, size - 65_557), Math.min(size, 65_557));
    let end = tail.length - 22;
    while (end >= 0 && tail.readUInt32LE(end) !== endOfDirectory) end--;
    if (end < 0) throw new Error('it is not a zip archive');
    const count = tail.readUInt16LE(end + 10);
    const directory = read(fd, tail.readUInt32LE(end + 16), tail.readUInt32LE(end + 12));
    const files = [];
    for (let at = 0, index = 0; index < count; index++) {
      if (directory.readUInt32LE(at) !== directoryEntry)
        throw new Error('its table of contents is damaged');
      const [nameLength, extraLength, commentLength] = [28, 30, 32].map((field) =>
        directory.readUInt16LE(at + field),
      );
      const name = directory.toString('utf8', at + 46, at + 46 + nameLength);
      files.push({
        name,
        method: directory.readUInt16LE(at + 10),
        compressed: directory.readUInt32LE(at + 20),
        size: directory.readUInt32LE(at + 24),
        offset: directory.readUInt32LE(at + 42),
      });
      at += 46 + nameLength + extraLength + commentLength;
    }
    return files.filter((file) => !file.name.endsWith('/'));
  } finally {
    closeSync(fd);
  }
}

/** Writes one file of the archive to `target`; folders are made. */
export async function extract(path, file, target, mode) {
  if (file.method !== 0 && file.method !== 8)
    throw new Error(`${file.name} is packed in a way (${file.method}) that is not supported`);
  const fd = openSync(path, 'r');
  let start;
  try {
    const header = read(fd, file.offset, 30);
    if (header.readUInt32LE(0) !== localHeader)
      throw new Error(`the header of ${file.name} is damaged`);
    start = file.offset + 30 + header.readUInt16LE(26) + header.readUInt16LE(28);
  } finally {
    closeSync(fd);
  }
  mkdirSync(dirname(target), { recursive: true });
  const out = createWriteStream(target, { mode });
  if (file.size === 0) await pipeline([], out);
  else {
    const packed = createReadStream(path, { start, end: start + file.compressed - 1 });
    await (file.method === 0 ? pipeline(packed, out) : pipeline(packed, createInflateRaw(), out));
  }
  if (out.bytesWritten !== file.size)
    throw new Error(`${file.name} has ${out.bytesWritten} bytes, its archive says ${file.size}`);
}
