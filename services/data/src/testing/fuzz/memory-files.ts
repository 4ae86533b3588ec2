/** Files in memory, by s3:// URL, so that nothing touches a disk. */
import { SpindleError } from '@spindle/kit';
import type { Files } from '../../files.js';

/** Files of that many bytes come in pieces. */
const chunk = 1 << 14;

export function memoryFiles(contents: ReadonlyMap<string, Buffer>): Files {
  const bytesOf = (path: string): Buffer => {
    const bytes = contents.get(path);
    if (bytes === undefined) throw new SpindleError('INVALID_ARGUMENT', `${path}: no such file`);
    return bytes;
  };
  return {
    list: async (folder) =>
      [...contents]
        .filter(([path]) => path.startsWith(`${folder}/`))
        .map(([path, { length }]) => ({ path, bytes: length })),
    find: async (path) => {
      const bytes = contents.get(path);
      if (bytes !== undefined) return { kind: 'file', bytes: bytes.length };
      const isFolder = [...contents.keys()].some((name) => name.startsWith(`${path}/`));
      return isFolder ? { kind: 'folder', bytes: 0 } : null;
    },
    read: async (path, offset, length) =>
      Buffer.from(new Uint8Array(bytesOf(path).subarray(offset, offset + length)).buffer),
    async *stream(path) {
      const bytes = bytesOf(path);
      for (let at = 0; at < bytes.length; at += chunk) yield bytes.subarray(at, at + chunk);
    },
  };
}
