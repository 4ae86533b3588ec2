/** Single rows of a shard that was verified, read where they lie. */
import { open, type FileHandle } from 'node:fs/promises';
import {
  bytesAt,
  elementsOf,
  layoutOf,
  readFields,
  SpindleError,
  type RowLayout,
  type TensorField,
} from '@spindle/kit';
import type { EncodedImage, EncodedText } from './encode-rows.js';
import type { IndexedRow } from './row-index.js';
import type { Latents } from './shard.js';

const none: RowLayout = layoutOf([]);

/** What an index says and the shard has not throws DATA_LOSS. */
export class Pack {
  private constructor(
    readonly path: string,
    readonly fields: ReadonlyMap<string, TensorField>,
    readonly dataStart: number,
    /** Latents of the images, and of the rejected ones. */
    readonly latents: { all: RowLayout; rejected: RowLayout },
  ) {}

  static async open(path: string): Promise<Pack> {
    const file = await open(path, 'r');
    try {
      const { tensors: fields, dataStart } = await readFields(file, path, 'DATA_LOSS');
      const rows = async (name: string, shapeName: string): Promise<RowLayout> => {
        const field = fields.get(name);
        const own = fields.get(shapeName);
        if (field === undefined) return none;
        if (own === undefined) {
          const [count = 0, ...shape] = field.shape;
          return layoutOf(Array.from({ length: count }, () => shape));
        }
        const [count = 0, width = 0] = own.shape;
        const values = await bytesAt(file, path, dataStart + own.begin, dataStart + own.end);
        const at = (n: number): number => Number(values.readBigInt64LE(n * 8));
        return layoutOf(
          Array.from({ length: count }, (_, n) =>
            Array.from({ length: width }, (__, i) => at(n * width + i)),
          ),
        );
      };
      return new Pack(path, fields, dataStart, {
        all: await rows('mean', 'shape'),
        rejected: await rows('rejected_mean', 'rejected_shape'),
      });
    } finally {
      await file.close();
    }
  }

  /** `timeIds`: they are needed; null where the shard has none. */
  async image(
    { views, rejected, size }: IndexedRow,
    timeIds: boolean,
  ): Promise<EncodedImage | null> {
    if (timeIds && !this.fields.has('time_ids')) return null;
    return this.#reading(async (file) => {
      const posterior = async (prefix: '' | 'rejected_', view: number) => ({
        mean: await this.#latents(
          file,
          `${prefix}mean`,
          prefix === '' ? this.latents.all : this.latents.rejected,
          view,
        ),
        logvar: await this.#latents(
          file,
          `${prefix}logvar`,
          prefix === '' ? this.latents.all : this.latents.rejected,
          view,
        ),
      });
      const image: EncodedImage = {
        size,
        views: [],
        rejected: rejected.length === 0 ? null : [],
        timeIds: [],
      };
      const ids: number[][] = [];
      for (const view of views) {
        image.views.push(await posterior('', view));
        if (timeIds) ids.push([...(await this.#values(file, 'time_ids', view))]);
      }
      for (const view of rejected) image.rejected?.push(await posterior('rejected_', view));
      return { ...image, timeIds: ids };
    });
  }

  /** The same of the pooled state. */
  async text(
    { views: [first = -1], cut }: IndexedRow,
    pooled: boolean,
  ): Promise<EncodedText | null> {
    if (pooled && !this.fields.has('pooled')) return null;
    return this.#reading(async (file) => ({
      text: await this.#values(file, 'text', first),
      pooled: pooled ? await this.#values(file, 'pooled', first) : null,
      cut,
    }));
  }

  /** The posterior's mean, in the first view, of each of these rows that the shard has. */
  async means(rows: ReadonlySet<number>): Promise<[number, Latents][]> {
    const index = this.fields.get('index');
    if (index?.dtype !== 'I64')
      throw new SpindleError(
        'DATA_LOSS',
        `${this.path}: index: expected dtype I64, got ${index?.dtype ?? 'nothing'}`,
      );
    return this.#reading(async (file) => {
      const [from, to] = [this.dataStart + index.begin, this.dataStart + index.end];
      const values = await bytesAt(file, this.path, from, to);
      const found = new Map<number, Latents>();
      for (let n = 0; n < values.length / BigInt64Array.BYTES_PER_ELEMENT; n++) {
        const row = Number(values.readBigInt64LE(n * BigInt64Array.BYTES_PER_ELEMENT));
        if (rows.has(row) && !found.has(row))
          found.set(row, await this.#latents(file, 'mean', this.latents.all, n));
      }
      return [...found];
    });
  }

  async #reading<T>(read: (file: FileHandle) => Promise<T>): Promise<T> {
    const file = await open(this.path, 'r');
    try {
      return await read(file);
    } finally {
      await file.close();
    }
  }

  async #latents(
    file: FileHandle,
    name: string,
    { shapes, starts }: RowLayout,
    n: number,
  ): Promise<Latents> {
    return {
      data: await this.#floats(file, name, starts[n], starts[n + 1]),
      shape: shapes[n] ?? [],
    };
  }

  /** Row `n` of a tensor whose rows are all alike. */
  #values(file: FileHandle, name: string, n: number): Promise<Float32Array> {
    const size = elementsOf(this.fields.get(name)?.shape.slice(1) ?? []);
    return this.#floats(file, name, n * size, (n + 1) * size);
  }

  async #floats(file: FileHandle, name: string, from = -1, to = -1): Promise<Float32Array> {
    const field = this.fields.get(name);
    const count = elementsOf(field?.shape ?? [0]);
    if (field?.dtype !== 'F32' || from < 0 || to < from || to > count)
      throw new SpindleError(
        'DATA_LOSS',
        `${this.path}: ${name}: expected elements [${from}, ${to}), got ${count}`,
      );
    const start = this.dataStart + field.begin;
    const width = Float32Array.BYTES_PER_ELEMENT;
    const bytes = await bytesAt(file, this.path, start + from * width, start + to * width);
    return new Float32Array(bytes.buffer, bytes.byteOffset, to - from);
  }
}
