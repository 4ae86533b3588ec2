/** Files of a data set, wherever they lie; a path is a local one or an s3:// URL. */
import { open, readdir, stat } from 'node:fs/promises';
import { createReadStream } from 'node:fs';
import { join, posix, relative, sep } from 'node:path';
import { ensureError, isCode, SpindleError } from '@spindle/kit';

export interface FileEntry {
  path: string;
  bytes: number;
}

/** Reading of files by path, local or in an S3 store. */
export interface Files {
  /** Every file below a folder or prefix, sorted by path; empty when there is none. */
  list(folder: string): Promise<FileEntry[]>;
  /** null when nothing is there. */
  find(path: string): Promise<{ kind: 'file' | 'folder'; bytes: number } | null>;
  /**
   * At most `length` bytes from `offset`; fewer only at the end of the file. Its ArrayBuffer holds
   * nothing else.
   */
  read(path: string, offset: number, length: number): Promise<Buffer<ArrayBuffer>>;
  stream(path: string): AsyncIterable<Buffer>;
}

/** Whether a path is an s3:// URL. */
export function isRemote(path: string): boolean {
  return path.startsWith('s3://');
}

/** A path below a folder, in the folder's own kind of path. */
export function below(folder: string, name: string): string {
  return isRemote(folder) ? `${folder.replace(/\/+$/, '')}/${name}` : join(folder, name);
}

export function folderOf(path: string): string {
  return isRemote(path) ? path.slice(0, path.lastIndexOf('/')) : join(path, '..');
}

/** The last part of a path. */
export function nameOf(path: string): string {
  return posix.basename(path.split(sep).join('/'));
}

/** A path relative to the folder it was listed in, with "/". */
export function nameBelow(folder: string, path: string): string {
  return isRemote(folder)
    ? path.slice(folder.replace(/\/+$/, '').length + 1)
    : relative(folder, path).split(sep).join('/');
}

const absent = ['ENOENT', 'ENOTDIR'];

export const localFiles: Files = {
  async list(folder) {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(
      (error: unknown) => {
        if (absent.some((code) => isCode(error, code))) return [];
        throw unreadable(folder, error);
      },
    );
    const files: FileEntry[] = [];
    for (const entry of entries) {
      const path = join(entry.parentPath, entry.name);
      const info = await stat(path).catch(() => null);
      if (info?.isFile()) files.push({ path, bytes: info.size });
    }
    return files.sort((a, b) => (a.path < b.path ? -1 : 1));
  },

  async find(path) {
    try {
      const info = await stat(path);
      return { kind: info.isDirectory() ? 'folder' : 'file', bytes: info.size };
    } catch (error) {
      if (absent.some((code) => isCode(error, code))) return null;
      throw unreadable(path, error);
    }
  },

  async read(path, offset, length) {
    try {
      const handle = await open(path, 'r');
      try {
        const buffer = Buffer.allocUnsafeSlow(length);
        let done = 0;
        while (done < length) {
          const { bytesRead } = await handle.read(buffer, done, length - done, offset + done);
          if (bytesRead === 0) break;
          done += bytesRead;
        }
        return done === length
          ? buffer
          : Buffer.from(new Uint8Array(buffer.subarray(0, done)).buffer);
      } finally {
        await handle.close();
      }
    } catch (error) {
      throw unreadable(path, error);
    }
  },

  async *stream(path) {
    try {
      for await (const chunk of createReadStream(path, { highWaterMark: 1 << 18 }))
        yield chunk as Buffer;
    } catch (error) {
      throw unreadable(path, error);
    }
  },
};

/**
 * A missing file is the data set's fault (INVALID_ARGUMENT). Whatever else goes wrong while reading
 * is the machine's: a right that is missing stays missing, the rest may pass (UNAVAILABLE).
 */
function unreadable(path: string, thrown: unknown): SpindleError {
  const error = ensureError(thrown);
  switch (error.code) {
    case 'NOT_FOUND':
      return new SpindleError('INVALID_ARGUMENT', `${path}: expected a file, got no such file`, {
        cause: thrown,
      });
    case 'FAILED_PRECONDITION':
      if (isCode(thrown, 'EISDIR'))
        return new SpindleError('INVALID_ARGUMENT', `${path}: expected a file, got a folder`, {
          cause: thrown,
        });
      return new SpindleError(error.code, `${path}: the file cannot be read: ${error.message}`, {
        cause: thrown,
      });
    case 'RESOURCE_EXHAUSTED':
      return new SpindleError(error.code, `${path}: the file cannot be read: ${error.message}`, {
        cause: thrown,
      });
    default:
      return new SpindleError('UNAVAILABLE', `${path}: the file cannot be read: ${error.message}`, {
        cause: thrown,
      });
  }
}

/**
 * Reads forward through a file in pieces of `chunk` bytes, so that many small reads cost few calls.
 */
export class Window {
  #start = 0;
  #bytes: Buffer = Buffer.alloc(0);

  constructor(
    readonly files: Files,
    readonly path: string,
    readonly chunk: number,
  ) {}

  /** [offset, offset + length) as far as the file goes. */
  async at(offset: number, length: number): Promise<Buffer> {
    if (offset < this.#start || offset + length > this.#start + this.#bytes.length) {
      this.#bytes = await this.files.read(this.path, offset, Math.max(length, this.chunk));
      this.#start = offset;
    }
    return this.#bytes.subarray(offset - this.#start, offset - this.#start + length);
  }
}
