/**
 * Where the members of an uncompressed zip archive lie: torch.save stores them as they are, with
 * zip64 above 4 GiB.
 */
import { invalid } from '@spindle/native';
import type { RandomFile } from './files.js';

const endSignature = 0x06054b50;
const zip64LocatorSignature = 0x07064b50;
const zip64EndSignature = 0x06064b50;
const entrySignature = 0x02014b50;
const localSignature = 0x04034b50;
const endBytes = 22;
const maxDirectoryBytes = 256 << 20;
const all32 = 0xffffffff;

export function zipMembers(file: RandomFile): Map<string, { at: number; bytes: number }> {
  const { offset, size, count } = findDirectory(file);
  if (size > maxDirectoryBytes)
    throw invalid(
      file.path,
      `zip directory: expected at most ${maxDirectoryBytes} bytes, got ${size}`,
    );
  const directory = file.read(offset, size);
  const members = new Map<string, { at: number; bytes: number }>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 46 > directory.length || directory.readUInt32LE(at) !== entrySignature)
      throw invalid(file.path, `zip directory: expected ${count} entries, got ${i}`);
    const nameBytes = directory.readUInt16LE(at + 28);
    const extraBytes = directory.readUInt16LE(at + 30);
    const next = at + 46 + nameBytes + extraBytes + directory.readUInt16LE(at + 32);
    if (next > directory.length)
      throw invalid(file.path, 'zip directory: expected a whole entry, got a part');
    const name = directory.toString('utf8', at + 46, at + 46 + nameBytes);
    if (directory.readUInt16LE(at + 10) !== 0)
      throw invalid(file.path, `${name}: expected a stored member, got a compressed one`);
    if (directory.readUInt16LE(at + 8) & 1)
      throw invalid(file.path, `${name}: expected a plain member, got an encrypted one`);
    const wide = wideFields(
      directory.subarray(at + 46 + nameBytes, at + 46 + nameBytes + extraBytes),
      [
        directory.readUInt32LE(at + 24),
        directory.readUInt32LE(at + 20),
        directory.readUInt32LE(at + 42),
      ],
    );
    const [bytes = 0, , local = 0] = wide;
    if (members.has(name))
      throw invalid(file.path, `${name}: expected every member once, got it twice`);
    const header = file.read(local, 30);
    if (header.readUInt32LE(0) !== localSignature)
      throw invalid(
        file.path,
        `${name}: expected its local header at ${local}, got something else`,
      );
    const data = local + 30 + header.readUInt16LE(26) + header.readUInt16LE(28);
    if (data + bytes > file.size)
      throw invalid(
        file.path,
        `${name}: expected ${bytes} bytes at ${data}, got the end of the file at ${file.size}`,
      );
    members.set(name, { at: data, bytes });
    at = next;
  }
  return members;
}

function findDirectory(file: RandomFile): { offset: number; size: number; count: number } {
  // The end record is last, but for a comment of up to 64 KiB.
  const tailBytes = Math.min(file.size, endBytes + 0xffff);
  const tailAt = file.size - tailBytes;
  const tail = file.read(tailAt, tailBytes);
  for (let at = tail.length - endBytes; at >= 0; at--) {
    if (tail.readUInt32LE(at) !== endSignature) continue;
    const found = {
      count: tail.readUInt16LE(at + 10),
      size: tail.readUInt32LE(at + 12),
      offset: tail.readUInt32LE(at + 16),
    };
    const locator = at - 20;
    if (locator < 0 || tail.readUInt32LE(locator) !== zip64LocatorSignature) return found;
    const record = file.read(Number(tail.readBigUInt64LE(locator + 8)), 56);
    if (record.readUInt32LE(0) !== zip64EndSignature)
      throw invalid(file.path, 'zip directory: expected its zip64 record, got something else');
    return {
      count: Number(record.readBigUInt64LE(32)),
      size: Number(record.readBigUInt64LE(40)),
      offset: Number(record.readBigUInt64LE(48)),
    };
  }
  throw invalid(
    file.path,
    'expected a zip archive, got one whose end is missing (a download that was cut?)',
  );
}

/** Fields that are all ones stand in the zip64 extra field, in this order. */
function wideFields(extra: Buffer, fields: number[]): number[] {
  for (let at = 0; at + 4 <= extra.length; at += 4 + extra.readUInt16LE(at + 2)) {
    if (extra.readUInt16LE(at) !== 1) continue;
    let value = at + 4;
    return fields.map((field) => {
      if (field !== all32 || value + 8 > extra.length) return field;
      value += 8;
      return Number(extra.readBigUInt64LE(value - 8));
    });
  }
  return fields;
}
