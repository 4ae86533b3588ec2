/**
 * The header of a safetensors file: 8 bytes of length, then JSON that names every tensor's type,
 * shape and place (https://github.com/huggingface/safetensors, "Format"). Strict: a header that
 * lies in any way is refused, and the message names the tensor and the field.
 */
import { brief } from '../brief.js';
import { SpindleError } from '../errors.js';
import { dtypeBytes, isDtype, tensorBytes, type TensorDtype } from './dtypes.js';

/** A tensor as the header has it; offsets count from the end of the header. */
export interface TensorField {
  dtype: TensorDtype;
  shape: number[];
  begin: number;
  end: number;
}

/** What a header says of its file. */
export interface TensorHeader {
  /** In the header's order. */
  tensors: ReadonlyMap<string, TensorField>;
  metadata: Record<string, string>;
  /** Of the first byte after the header. */
  dataStart: number;
}

/** Bytes of the length that stands before the JSON. */
export const prefixBytes = 8;
const maxHeaderBytes = 100_000_000;
/** More than any model has; bounds what a shape costs. */
const maxRank = 16;
const maxNameShown = 200;

/** The JSON's length, from a file's first bytes and its size. */
export function headerLength(prefix: Buffer, fileBytes: number, where: string): number {
  if (prefix.byteLength < prefixBytes)
    throw bad(where, `expected at least ${prefixBytes} bytes, got ${prefix.byteLength}`);
  const length = prefix.readBigUInt64LE(0);
  if (length > BigInt(maxHeaderBytes))
    throw bad(
      where,
      `header length: expected at most ${maxHeaderBytes} bytes, got ${length.toString()}`,
    );
  const rest = fileBytes - prefixBytes;
  if (Number(length) > rest) {
    throw bad(
      where,
      `header length: expected at most ${rest} bytes (the file's rest), got ${length.toString()}`,
    );
  }
  return Number(length);
}

/** Reads the JSON of a header whose file has `fileBytes` bytes in all. */
export function parseHeader(json: Uint8Array, fileBytes: number, where: string): TensorHeader {
  const dataStart = prefixBytes + json.byteLength;
  const dataBytes = fileBytes - dataStart;
  const tensors = new Map<string, TensorField>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(parseFields(json, where))) {
    if (name === '__metadata__') metadata = checkMetadata(value, where);
    else tensors.set(name, checkEntry(name, value, dataBytes, where));
  }
  checkCoverage(tensors, dataBytes, where);
  return { tensors, metadata, dataStart };
}

/** Wider types first, then by name: every tensor is aligned, and equal tensors give equal bytes. */
export function inFileOrder<T extends { name: string; dtype: TensorDtype }>(
  tensors: readonly T[],
): T[] {
  return [...tensors].sort(
    (a, b) => dtypeBytes[b.dtype] - dtypeBytes[a.dtype] || (a.name < b.name ? -1 : 1),
  );
}

/** Length and JSON of a header of these tensors, whose data follow in this order. */
export function encodeHeader(
  tensors: readonly { name: string; dtype: TensorDtype; shape: readonly number[] }[],
  metadata: Readonly<Record<string, string>>,
): Buffer {
  const fields: string[] = [];
  const field = (key: string, value: unknown): void => {
    // By hand: an object would reorder names that look like numbers.
    fields.push(`${JSON.stringify(key)}:${JSON.stringify(value)}`);
  };
  const keys = Object.keys(metadata).sort();
  if (keys.length > 0) {
    field('__metadata__', Object.fromEntries(keys.map((key) => [key, metadata[key]])));
  }
  let at = 0;
  for (const { name, dtype, shape } of tensors) {
    const end = at + tensorBytes({ dtype, shape });
    field(name, { dtype, shape, data_offsets: [at, end] });
    at = end;
  }
  const text = `{${fields.join(',')}}`;
  const bytes = Buffer.byteLength(text);
  const padding = (8 - (bytes % 8)) % 8;
  const length = Buffer.alloc(prefixBytes);
  length.writeBigUInt64LE(BigInt(bytes + padding));
  return Buffer.concat([length, Buffer.from(text + ' '.repeat(padding))]);
}

function parseFields(json: Uint8Array, where: string): Record<string, unknown> {
  let text: string;
  let fields: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(json);
    fields = JSON.parse(text);
  } catch (cause) {
    throw bad(where, 'header: expected a JSON object in UTF-8, got something else', cause);
  }
  if (!text.startsWith('{') || !isObject(fields))
    throw bad(where, 'header: expected a JSON object');
  const twice = duplicateKey(text);
  if (twice !== undefined) throw bad(where, `header: the key ${brief(twice)} occurs twice`);
  return fields;
}

function checkMetadata(value: unknown, where: string): Record<string, string> {
  // The format's own reader takes null for none.
  if (value === null) return {};
  if (!isObject(value)) throw bad(where, '__metadata__: expected an object of strings');
  for (const [key, entry] of Object.entries(value)) {
    if (typeof entry !== 'string')
      throw bad(where, `__metadata__.${key}: expected a string, got ${typeof entry}`);
  }
  return value as Record<string, string>;
}

function checkEntry(name: string, value: unknown, dataBytes: number, where: string): TensorField {
  const at = `tensor ${brief(name, maxNameShown)}`;
  if (!isObject(value))
    throw bad(where, `${at}: expected an object with dtype, shape and data_offsets`);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string' || !isDtype(dtype)) {
    throw bad(
      where,
      `${at}: dtype: expected one of ${Object.keys(dtypeBytes).join(', ')}, got ` + brief(dtype),
    );
  }
  if (!isSizes(shape))
    throw bad(
      where,
      `${at}: shape: expected a list of at most ${maxRank} non-negative integers, got ` +
        brief(shape),
    );
  if (!isSizes(offsets) || offsets.length !== 2)
    throw bad(where, `${at}: data_offsets: expected [begin, end], got ${brief(offsets)}`);
  const [begin = 0, end = 0] = offsets;
  if (begin > end || end > dataBytes) {
    throw bad(
      where,
      `${at}: data_offsets: expected begin <= end <= ${dataBytes}, got [${begin}, ${end}]`,
    );
  }
  // BigInt: a huge shape must not overflow into a plausible size.
  const bytes = shape.reduce((product, size) => product * BigInt(size), BigInt(dtypeBytes[dtype]));
  if (bytes !== BigInt(end - begin)) {
    throw bad(
      where,
      `${at}: expected ${bytes.toString()} bytes for ${dtype} [${shape.join(', ')}], got ` +
        `${end - begin}`,
    );
  }
  return { dtype, shape, begin, end };
}

/**
 * The tensors cover the data section exactly: no holes (where something could hide), no overlaps,
 * nothing after the end.
 */
function checkCoverage(
  tensors: ReadonlyMap<string, TensorField>,
  dataBytes: number,
  where: string,
): void {
  const spans = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let covered = 0;
  for (const [name, { begin, end }] of spans) {
    if (begin !== covered) {
      throw bad(
        where,
        `tensor ${brief(name, maxNameShown)}: expected its data to begin at ${covered}, got ${begin} ` +
          `(${begin < covered ? 'an overlap' : 'a hole'})`,
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
      if (!keys || !isBeforeColon(text, i + 1)) continue;
      const key = JSON.parse(text.slice(start, i + 1)) as string;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return undefined;
}

function isBeforeColon(text: string, at: number): boolean {
  while (' \n\r\t'.includes(text[at] ?? ':')) at++;
  return text[at] === ':';
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSizes(value: unknown): value is number[] {
  return (
    Array.isArray(value) &&
    value.length <= maxRank &&
    value.every((size) => Number.isSafeInteger(size) && (size as number) >= 0)
  );
}

function bad(where: string, message: string, cause?: unknown): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', `${where}: ${message}`, { cause });
}
