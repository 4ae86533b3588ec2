/** Files in an S3-compatible store, by s3:// URL; and the two kinds behind one port. */
import { ObjectStore, parseS3Url, SpindleError, type S3Address } from '@spindle/kit';
import { isRemote, localFiles, type Files } from './files.js';

const chunkBytes = 8 * 1024 * 1024;

/** Local paths and s3:// URLs. The client of the object store is loaded with the first URL. */
export function openFiles(objects = new ObjectStore()): Files {
  const remote = s3Files(objects);
  const of = (path: string): Files => (isRemote(path) ? remote : localFiles);
  return {
    list: (folder) => of(folder).list(folder),
    find: (path) => of(path).find(path),
    read: (path, offset, length) => of(path).read(path, offset, length),
    stream: (path) => of(path).stream(path),
  };
}

function s3Files(objects: ObjectStore): Files {
  const files: Files = {
    async list(folder) {
      const { bucket, key } = parseS3Url(folder);
      const found: { path: string; bytes: number }[] = [];
      // Some tools leave empty objects that stand for folders.
      for await (const entry of objects.list({ bucket, key: asPrefix(key) }))
        if (!entry.key.endsWith('/'))
          found.push({ path: `s3://${bucket}/${entry.key}`, bytes: entry.bytes });
      return found.sort((a, b) => (a.path < b.path ? -1 : 1));
    },

    async find(path) {
      const address = parseS3Url(path);
      const bytes =
        address.key === '' || address.key.endsWith('/') ? null : await objects.head(address);
      if (bytes !== null) return { kind: 'file', bytes };
      for await (const _entry of objects.list({ ...address, key: asPrefix(address.key) }, 1))
        return { kind: 'folder', bytes: 0 };
      return null;
    },

    async read(path, offset, length) {
      const bytes = await objects.read(parseS3Url(path), offset, length);
      if (bytes === null) throw missing(path);
      return bytes;
    },

    async *stream(path) {
      const address: S3Address = parseS3Url(path);
      const size = await objects.head(address);
      if (size === null) throw missing(path);
      // Pieces, each of which can be asked for again.
      for (let offset = 0; offset < size; offset += chunkBytes)
        yield await files.read(path, offset, Math.min(chunkBytes, size - offset));
    },
  };
  return files;
}

function asPrefix(key: string): string {
  return key === '' || key.endsWith('/') ? key : `${key}/`;
}

function missing(path: string): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', `${path}: expected a file, got no such object`);
}
