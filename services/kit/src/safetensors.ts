import { SpindleError } from './errors.js';

export type TensorDtype = 'F32' | 'F16' | 'BF16' | 'F64' | 'I64' | 'I32' | 'U8';

/** A dense little-endian tensor; `data` is a view, nothing is copied on reading. */
export interface TensorEntry {
  dtype: TensorDtype;
  shape: number[];
  data: Uint8Array;
}

const width: Readonly<Record<TensorDtype, number>> = {
  F64: 8,
  I64: 8,
  F32: 4,
  I32: 4,
  F16: 2,
  BF16: 2,
  U8: 1,
};
const maxHeaderBytes = 100_000_000;

/**
 * Strict: a header that lies in any way is refused, and the message names the tensor and the field.
 */
export function readSafetensors(
  buffer: Buffer,
  where: string,
): { tensors: Map<string, TensorEntry>; metadata: Record<string, string> } {
  const header = parseHeader(buffer, where);
  const dataBytes = buffer.byteLength - header.dataStart;
  const tensors = new Map<string, TensorEntry>();
  let metadata: Record<string, string> = {};
  const spans: { name: string; begin: number; end: number }[] = [];
  for (const [name, value] of Object.entries(header.fields)) {
    if (name === '__metadata__') {
      metadata = checkMetadata(value, where);
      continue;
    }
    const { dtype, shape, begin, end } = checkEntry(name, value, dataBytes, where);
    spans.push({ name, begin, end });
    tensors.set(name, {
      dtype,
      shape,
      data: buffer.subarray(header.dataStart + begin, header.dataStart + end),
    });
  }
  checkCoverage(spans, dataBytes, where);
  return { tensors, metadata };
}

/**
 * Deterministic: the same tensors give the same bytes. Wider types first, then by name, so that
 * every tensor is aligned.
 */
export function writeSafetensors(
  tensors: Map<string, TensorEntry>,
  metadata: Record<string, string> = {},
): Buffer {
  const names = [...tensors.keys()].sort(
    (a, b) => entryOf(tensors, b).wide - entryOf(tensors, a).wide || (a < b ? -1 : 1),
  );
  const header = new Map<string, unknown>();
  const metadataKeys = Object.keys(metadata).sort();
  if (metadataKeys.length > 0)
    header.set('__metadata__', Object.fromEntries(metadataKeys.map((key) => [key, metadata[key]])));
  const parts: Uint8Array[] = [];
  let offset = 0;
  for (const name of names) {
    const { entry, wide } = entryOf(tensors, name);
    const expected = entry.shape.reduce((a, b) => a * b, wide);
    if (entry.data.byteLength !== expected) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `tensor "${name}": expected ${expected} bytes for ${entry.dtype} [${entry.shape.join(', ')}], got ${entry.data.byteLength}`,
      );
    }
    header.set(name, {
      dtype: entry.dtype,
      shape: entry.shape,
      data_offsets: [offset, offset + expected],
    });
    offset += expected;
    parts.push(entry.data);
  }
  // Built by hand: an object would reorder names that look like numbers.
  const text = `{${[...header].map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(',')}}`;
  const bytes = Buffer.byteLength(text);
  const padding = (8 - (bytes % 8)) % 8;
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(bytes + padding));
  return Buffer.concat([length, Buffer.from(text + ' '.repeat(padding)), ...parts]);
}

export function asFloat32(t: TensorEntry): Float32Array {
  if (t.dtype === 'F32') return new Float32Array(alignedCopy(t.data));
  return Float32Array.from(asNumbers(t));
}

/** Values as doubles; an I64 beyond 2^53 is refused instead of rounded. */
export function asNumbers(t: TensorEntry): number[] {
  const view = new DataView(t.data.buffer, t.data.byteOffset, t.data.byteLength);
  const count = t.data.byteLength / width[t.dtype];
  const read = reader(t.dtype, view);
  return Array.from({ length: count }, (_, i) => read(i));
}

/** An F32 tensor of values that are already in order. */
export function fromFloat32(shape: number[], data: Float32Array): TensorEntry {
  const count = shape.reduce((a, b) => a * b, 1);
  if (count !== data.length) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `shape [${shape.join(', ')}]: expected ${count} values, got ${data.length}`,
    );
  }
  return {
    dtype: 'F32',
    shape: [...shape],
    data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  };
}

/** An I64 tensor of one dimension. */
export function fromInt64(values: number[]): TensorEntry {
  const data = new BigInt64Array(values.map((value) => BigInt(value)));
  return { dtype: 'I64', shape: [values.length], data: new Uint8Array(data.buffer) };
}

function parseHeader(
  buffer: Buffer,
  where: string,
): { fields: Record<string, unknown>; dataStart: number } {
  if (buffer.byteLength < 8)
    throw bad(where, `expected at least 8 bytes, got ${buffer.byteLength}`);
  const length = buffer.readBigUInt64LE(0);
  if (length > BigInt(maxHeaderBytes))
    throw bad(
      where,
      `header length: expected at most ${maxHeaderBytes} bytes, got ${length.toString()}`,
    );
  const dataStart = 8 + Number(length);
  if (dataStart > buffer.byteLength) {
    throw bad(
      where,
      `header length: expected at most ${buffer.byteLength - 8} bytes (the file's rest), got ${length.toString()}`,
    );
  }
  let text: string;
  let fields: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(buffer.subarray(8, dataStart));
    fields = JSON.parse(text);
  } catch (cause) {
    throw bad(where, 'header: expected a JSON object in UTF-8, got something else', cause);
  }
  if (!text.startsWith('{') || !isObject(fields))
    throw bad(where, 'header: expected a JSON object');
  const twice = duplicateKey(text);
  if (twice !== undefined) throw bad(where, `header: the key "${twice}" occurs twice`);
  return { fields, dataStart };
}

function checkMetadata(value: unknown, where: string): Record<string, string> {
  if (!isObject(value)) throw bad(where, '__metadata__: expected an object of strings');
  for (const [key, entry] of Object.entries(value)) {
    if (typeof entry !== 'string')
      throw bad(where, `__metadata__.${key}: expected a string, got ${typeof entry}`);
  }
  return value as Record<string, string>;
}

function checkEntry(
  name: string,
  value: unknown,
  dataBytes: number,
  where: string,
): { dtype: TensorDtype; shape: number[]; begin: number; end: number } {
  const at = `tensor "${name}"`;
  if (!isObject(value))
    throw bad(where, `${at}: expected an object with dtype, shape and data_offsets`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string' || !isDtype(dtype)) {
    throw bad(
      where,
      `${at}: dtype: expected one of ${Object.keys(width).join(', ')}, got ${JSON.stringify(dtype)}`,
    );
  }
  if (!isSizes(shape))
    throw bad(
      where,
      `${at}: shape: expected a list of non-negative integers, got ${JSON.stringify(shape)}`,
    );
  if (!isSizes(offsets) || offsets.length !== 2)
    throw bad(where, `${at}: data_offsets: expected [begin, end], got ${JSON.stringify(offsets)}`);
  const [begin = 0, end = 0] = offsets;
  if (begin > end || end > dataBytes) {
    throw bad(
      where,
      `${at}: data_offsets: expected begin <= end <= ${dataBytes}, got [${begin}, ${end}]`,
    );
  }
  // BigInt: a huge shape must not overflow into a plausible size.
  const bytes = shape.reduce((product, size) => product * BigInt(size), BigInt(width[dtype]));
  if (bytes !== BigInt(end - begin)) {
    throw bad(
      where,
      `${at}: expected ${bytes.toString()} bytes for ${dtype} [${shape.join(', ')}], got ${end - begin}`,
    );
  }
  return { dtype, shape, begin, end };
}

/**
 * The tensors cover the data section exactly: no holes (where something could hide), no overlaps,
 * nothing after the end.
 */
function checkCoverage(
  spans: { name: string; begin: number; end: number }[],
  dataBytes: number,
  where: string,
): void {
  spans.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let covered = 0;
  for (const { name, begin, end } of spans) {
    if (begin !== covered) {
      throw bad(
        where,
        `tensor "${name}": expected its data to begin at ${covered}, got ${begin} (${begin < covered ? 'an overlap' : 'a hole'})`,
      );
    }
    covered = end;
  }
  if (covered !== dataBytes)
    throw bad(where, `expected ${covered} bytes of tensor data, got ${dataBytes}`);
}

/** JSON.parse keeps the last of two equal keys silently; this finds them. `text` is valid JSON. */
function duplicateKey(text: string): string | undefined {
  const seen: (Set<string> | null)[] = [];
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '{') seen.push(new Set());
    else if (c === '[') seen.push(null);
    else if (c === '}' || c === ']') seen.pop();
    else if (c === '"') {
      const start = i;
      for (i++; text[i] !== '"'; i++) if (text[i] === '\\') i++;
      const keys = seen.at(-1);
      if (!keys || !/^\s*:/.test(text.slice(i + 1, i + 16))) continue;
      const key = JSON.parse(text.slice(start, i + 1)) as string;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

function reader(dtype: TensorDtype, view: DataView): (i: number) => number {
  switch (dtype) {
    case 'F32':
      return (i) => view.getFloat32(i * 4, true);
    case 'F64':
      return (i) => view.getFloat64(i * 8, true);
    case 'I32':
      return (i) => view.getInt32(i * 4, true);
    case 'U8':
      return (i) => view.getUint8(i);
    case 'F16':
      return (i) => halfToNumber(view.getUint16(i * 2, true));
    case 'BF16': {
      const scratch = new DataView(new ArrayBuffer(4));
      return (i) => {
        scratch.setUint32(0, view.getUint16(i * 2, true) * 0x10000);
        return scratch.getFloat32(0);
      };
    }
    case 'I64':
      return (i) => {
        const value = view.getBigInt64(i * 8, true);
        const number = Number(value);
        if (!Number.isSafeInteger(number))
          throw new SpindleError(
            'INVALID_ARGUMENT',
            `I64 value ${value.toString()}: expected at most 2^53`,
          );
        return number;
      };
  }
}

function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function alignedCopy(data: Uint8Array): ArrayBuffer {
  const copy = new ArrayBuffer(data.byteLength);
  new Uint8Array(copy).set(data);
  return copy;
}

function entryOf(
  tensors: Map<string, TensorEntry>,
  name: string,
): { entry: TensorEntry; wide: number } {
  const entry = tensors.get(name);
  if (!entry) throw new SpindleError('INTERNAL', `tensor "${name}" is missing`);
  return { entry, wide: width[entry.dtype] };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isDtype(value: string): value is TensorDtype {
  return Object.hasOwn(width, value);
}

function isSizes(value: unknown): value is number[] {
  return (
    Array.isArray(value) &&
    value.every((size) => Number.isSafeInteger(size) && (size as number) >= 0)
  );
}

function bad(where: string, message: string, cause?: unknown): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', `${where}: ${message}`, { cause });
}
