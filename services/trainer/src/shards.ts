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

/** Where each row of tensors of one dimension lies: rows of several shapes, one after the other. */
interface Layout {
  shapes: readonly (readonly number[])[];
  /** First element of every row, and the end of the last one. */
  starts: readonly number[];
}

/** Tensors that a shard must have, which may depend on what it has. */
export type Names = readonly string[] | ((has: (name: string) => boolean) => readonly string[]);

export class Shard {
  readonly #file: FileHandle;
  readonly #fields: ReadonlyMap<string, Field>;
  readonly #dataStart: number;
  readonly #layout: Layout | null;

  private constructor(
    readonly path: string,
    readonly index: readonly number[],
    file: FileHandle,
    fields: ReadonlyMap<string, Field>,
    dataStart: number,
    layout: Layout | null,
  ) {
    this.#file = file;
    this.#fields = fields;
    this.#dataStart = dataStart;
    this.#layout = layout;
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
      const rows = await readIntegers(file, fields.get(index), 8 + length, [undefined], `${label}: index`);
      const shapes = fields.get(index.replace('index', 'shape'));
      const layout =
        shapes === undefined
          ? null
          : layoutOf(await readIntegers(file, shapes, 8 + length, [rows.length, latentDimensions], `${label}: shape`));
      const shard = new Shard(path, rows, file, fields, 8 + length, layout);
      const needed = typeof names === 'function' ? names((name) => fields.has(name)) : names;
      for (const name of [...needed, ...(index === 'index' ? optional.filter((each) => fields.has(each)) : [])]) shard.#check(name, label);
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

  /** Shape of one row; tensors of one dimension have rows of several. */
  rowShape(name: string, row: number): readonly number[] {
    const shape = this.#fields.get(name)?.shape ?? [];
    return this.#layout !== null && shape.length === 1 ? (this.#layout.shapes[row] ?? []) : shape.slice(1);
  }

  async row(name: string, row: number): Promise<Float32Array> {
    const field = this.#fields.get(name);
    if (field === undefined) throw bad(this.path, `expected a tensor ${name}, got none`);
    const data = new Float32Array(elementsOf(this.rowShape(name, row)));
    const bytes = Buffer.from(data.buffer);
    const ragged = this.#layout !== null && field.shape.length === 1;
    const start = ragged ? (this.#layout?.starts[row] ?? 0) * data.BYTES_PER_ELEMENT : row * bytes.length;
    const at = this.#dataStart + field.data_offsets[0] + start;
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
    if (this.#layout !== null && field.shape.length === 1) {
      const elements = this.#layout.starts.at(-1) ?? 0;
      if (field.shape[0] !== elements) throw bad(label, `${name}: expected ${elements} elements, got ${field.shape[0]}`);
    } else if (field.shape[0] !== this.index.length) throw bad(label, `${name}: expected ${this.index.length} rows, got ${field.shape[0]}`);
  }
}

/** All values of an I64 tensor of these dimensions, of which undefined ones may be any. */
async function readIntegers(
  file: FileHandle,
  field: Field | undefined,
  dataStart: number,
  shape: readonly (number | undefined)[],
  label: string,
): Promise<number[]> {
  if (field?.dtype !== 'I64' || field.shape.length !== shape.length || shape.some((n, i) => n !== undefined && n !== field.shape[i])) {
    const expected = shape.length === 1 ? 'one dimension' : `[${shape.join(', ')}]`;
    throw bad(label, `expected ${expected} of dtype I64, got something else`);
  }
  const count = elementsOf(field.shape);
  const bytes = Buffer.alloc(count * 8);
  await file.read(bytes, 0, bytes.length, dataStart + field.data_offsets[0]);
  return Array.from({ length: count }, (_, i) => Number(bytes.readBigInt64LE(i * 8)));
}

/** C, h, w. */
const latentDimensions = 3;

function layoutOf(sizes: readonly number[]): Layout {
  const shapes: number[][] = [];
  const starts = [0];
  for (let i = 0; i < sizes.length; i += latentDimensions) {
    const shape = sizes.slice(i, i + latentDimensions);
    shapes.push(shape);
    starts.push((starts.at(-1) ?? 0) + elementsOf(shape));
  }
  return { shapes, starts };
}

function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

function bad(label: string, what: string): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', `${label}: ${what}`);
}
