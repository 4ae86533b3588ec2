/** Rows of safetensors shards, read where they lie: a data set need not fit into memory. */
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

/** Present together, in shards of models that take them (SDXL). */
const optional = ['pooled', 'time_ids'];

/** Tensors that a shard must have, which may depend on what it has. */
export type Names = readonly string[] | ((has: (name: string) => boolean) => readonly string[]);

export class Shard {
  readonly #file: FileHandle;
  readonly #fields: ReadonlyMap<string, TensorField>;
  readonly #dataStart: number;
  /** Of tensors of one dimension, whose rows have several shapes. */
  readonly #layout: RowLayout | null;

  private constructor(
    readonly path: string,
    readonly index: readonly number[],
    file: FileHandle,
    fields: ReadonlyMap<string, TensorField>,
    dataStart: number,
    layout: RowLayout | null,
  ) {
    this.#file = file;
    this.#fields = fields;
    this.#dataStart = dataStart;
    this.#layout = layout;
  }

  /**
   * `path` is a verified blob; `names` are the F32 tensors that every row must have, beside
   * `index`: the rows' places in the data set.
   */
  static async open(path: string, names: Names, label: string, index = 'index'): Promise<Shard> {
    const file = await open(path, 'r');
    try {
      const { tensors: fields, dataStart } = await readFields(file, label, 'INVALID_ARGUMENT');
      const rows = await readIntegers(
        file,
        fields.get(index),
        dataStart,
        [undefined],
        `${label}: index`,
      );
      const shapes = fields.get(index.replace('index', 'shape'));
      const layout =
        shapes === undefined
          ? null
          : layoutOf(
              shapesOf(
                await readIntegers(
                  file,
                  shapes,
                  dataStart,
                  [rows.length, latentDimensions],
                  `${label}: shape`,
                ),
              ),
            );
      const shard = new Shard(path, rows, file, fields, dataStart, layout);
      const needed = typeof names === 'function' ? names((name) => fields.has(name)) : names;
      for (const name of [
        ...needed,
        ...(index === 'index' ? optional.filter((each) => fields.has(each)) : []),
      ])
        shard.#check(name, label);
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
    return this.#layout !== null && shape.length === 1
      ? (this.#layout.shapes[row] ?? [])
      : shape.slice(1);
  }

  async row(name: string, row: number): Promise<Float32Array> {
    const field = this.#fields.get(name);
    if (field === undefined) throw bad(this.path, `expected a tensor ${name}, got none`);
    const size = elementsOf(this.rowShape(name, row));
    const ragged = this.#layout !== null && field.shape.length === 1;
    const first = ragged ? (this.#layout?.starts[row] ?? 0) : row * size;
    const at = this.#dataStart + field.begin + first * Float32Array.BYTES_PER_ELEMENT;
    const bytes = await bytesAt(
      this.#file,
      `${this.path}: ${name}[${row}]`,
      at,
      at + size * Float32Array.BYTES_PER_ELEMENT,
    );
    return new Float32Array(bytes.buffer, bytes.byteOffset, size);
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
      if (field.shape[0] !== elements)
        throw bad(label, `${name}: expected ${elements} elements, got ${field.shape[0]}`);
    } else if (field.shape[0] !== this.index.length)
      throw bad(label, `${name}: expected ${this.index.length} rows, got ${field.shape[0]}`);
  }
}

/** All values of an I64 tensor of these dimensions, of which undefined ones may be any. */
async function readIntegers(
  file: FileHandle,
  field: TensorField | undefined,
  dataStart: number,
  shape: readonly (number | undefined)[],
  label: string,
): Promise<number[]> {
  if (
    field?.dtype !== 'I64' ||
    field.shape.length !== shape.length ||
    shape.some((n, i) => n !== undefined && n !== field.shape[i])
  ) {
    const expected = shape.length === 1 ? 'one dimension' : `[${shape.join(', ')}]`;
    throw bad(label, `expected ${expected} of dtype I64, got something else`);
  }
  const count = elementsOf(field.shape);
  const from = dataStart + field.begin;
  const bytes = await bytesAt(file, label, from, from + count * 8);
  return Array.from({ length: count }, (_, i) => Number(bytes.readBigInt64LE(i * 8)));
}

/** C, h, w. */
const latentDimensions = 3;

function shapesOf(sizes: readonly number[]): number[][] {
  return Array.from({ length: sizes.length / latentDimensions }, (_, n) =>
    sizes.slice(n * latentDimensions, (n + 1) * latentDimensions),
  );
}

function bad(label: string, what: string): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', `${label}: ${what}`);
}
