/** Rows of safetensors shards. They are read from the file, since a data set may exceed memory. */
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

/** Tensors that a shard has for models that take them (SDXL): both or neither. */
const optional = ['pooled', 'time_ids'];

/** The tensors that a shard must have, or a function of those that it has which says so. */
export type Names = readonly string[] | ((has: (name: string) => boolean) => readonly string[]);

export class Shard {
  readonly #file: FileHandle;
  readonly #fields: ReadonlyMap<string, TensorField>;
  readonly #dataStart: number;
  /** Where rows begin in tensors of one dimension, whose rows have several shapes; else null. */
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
   * `path` is a verified blob. `names` are the F32 tensors that it must have. `index` is the name
   * of the tensor that says which image of the run each row is of.
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
      ]) {
        shard.#check(name, label);
      }
      return shard;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  has(name: string): boolean {
    return this.#fields.has(name);
  }

  /** A row of a tensor that only some models' shards have; empty where the shard lacks it. */
  optionalRow(name: string, row: number): Promise<Float32Array> {
    return this.has(name) ? this.row(name, row) : Promise.resolve(new Float32Array(0));
  }

  /** The shape of one row. In tensors of one dimension, rows have shapes of their own. */
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
      if (field.shape[0] !== elements) {
        throw bad(label, `${name}: expected ${elements} elements, got ${field.shape[0]}`);
      }
    } else if (field.shape[0] !== this.index.length) {
      throw bad(label, `${name}: expected ${this.index.length} rows, got ${field.shape[0]}`);
    }
  }
}

/** All values of an I64 tensor. It must have this shape; an undefined dimension may be any. */
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

/** Latents are (C, h, w). */
const latentDimensions = 3;

function shapesOf(sizes: readonly number[]): number[][] {
  return Array.from({ length: sizes.length / latentDimensions }, (_, n) =>
    sizes.slice(n * latentDimensions, (n + 1) * latentDimensions),
  );
}

function bad(label: string, what: string): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', `${label}: ${what}`);
}
