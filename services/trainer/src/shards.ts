/** Rows of safetensors shards, read where they lie: a data set need not fit into memory. */
import { open, type FileHandle } from 'node:fs/promises';
import { SpindleError } from '@spindle/kit';

interface Field {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** Present together, in shards of models that take them (SDXL). */
const optional = ['pooled', 'time_ids'];

/** Tensors that a shard must have, which may depend on what it has. */
export type Names = readonly string[] | ((has: (name: string) => boolean) => readonly string[]);

export class Shard {
  readonly #file: FileHandle;
  readonly #fields: ReadonlyMap<string, Field>;
  readonly #dataStart: number;

  private constructor(
    readonly path: string,
    readonly index: readonly number[],
    file: FileHandle,
    fields: ReadonlyMap<string, Field>,
    dataStart: number,
  ) {
    this.#file = file;
    this.#fields = fields;
    this.#dataStart = dataStart;
  }

  /** `path` is a verified blob; `names` are the F32 tensors that every row must have, beside `index`: the rows' places in the data set. */
  static async open(path: string, names: Names, label: string, index = 'index'): Promise<Shard> {
    const file = await open(path, 'r');
    try {
      const prefix = Buffer.alloc(8);
      await file.read(prefix, 0, 8, 0);
      const length = Number(prefix.readBigUInt64LE(0));
      const { size } = await file.stat();
      if (8 + length > size) throw bad(label, `expected a header within ${size} bytes, got one of ${length}`);
      const text = Buffer.alloc(length);
      await file.read(text, 0, length, 8);
      const fields = new Map(Object.entries(JSON.parse(text.toString('utf8')) as Record<string, Field>));
      const shard = new Shard(path, await readIndex(file, fields.get(index), 8 + length, label), file, fields, 8 + length);
      const needed = typeof names === 'function' ? names((name) => fields.has(name)) : names;
      for (const name of [...needed, ...optional.filter((each) => fields.has(each))]) shard.#check(name, label);
      return shard;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  has(name: string): boolean {
    return this.#fields.has(name);
  }

  /** Of a tensor that only some models' shards have; empty without it. */
  optionalRow(name: string, row: number): Promise<Float32Array> {
    return this.has(name) ? this.row(name, row) : Promise.resolve(new Float32Array(0));
  }

  /** Shape of one row. */
  rowShape(name: string): number[] {
    return this.#fields.get(name)?.shape.slice(1) ?? [];
  }

  async row(name: string, row: number): Promise<Float32Array> {
    const field = this.#fields.get(name);
    if (field === undefined) throw bad(this.path, `expected a tensor ${name}, got none`);
    const elements = field.shape.slice(1).reduce((product, n) => product * n, 1);
    const data = new Float32Array(elements);
    const bytes = Buffer.from(data.buffer);
    const at = this.#dataStart + field.data_offsets[0] + row * bytes.length;
    for (let done = 0; done < bytes.length; ) {
      const { bytesRead } = await this.#file.read(bytes, done, bytes.length - done, at + done);
      if (bytesRead === 0)
        throw new SpindleError('DATA_LOSS', `${this.path}: ${name}[${row}]: expected ${bytes.length} bytes, got ${done}`);
      done += bytesRead;
    }
    return data;
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  #check(name: string, label: string): void {
    const field = this.#fields.get(name);
    if (field === undefined) throw bad(label, `expected a tensor ${name}, got none`);
    if (field.dtype !== 'F32') throw bad(label, `${name}: expected dtype F32, got ${field.dtype}`);
    if (field.shape[0] !== this.index.length) throw bad(label, `${name}: expected ${this.index.length} rows, got ${field.shape[0]}`);
  }
}

async function readIndex(file: FileHandle, field: Field | undefined, dataStart: number, label: string): Promise<number[]> {
  if (field?.dtype !== 'I64' || field.shape.length !== 1)
    throw bad(label, 'index: expected one dimension of dtype I64, got something else');
  const bytes = Buffer.alloc((field.shape[0] ?? 0) * 8);
  await file.read(bytes, 0, bytes.length, dataStart + field.data_offsets[0]);
  return Array.from({ length: field.shape[0] ?? 0 }, (_, i) => Number(bytes.readBigInt64LE(i * 8)));
}

function bad(label: string, what: string): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', `${label}: ${what}`);
}
