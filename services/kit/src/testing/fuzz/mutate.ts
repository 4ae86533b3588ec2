/** Inputs that are nearly sound. */
import type { Random } from './random.js';
import { limits } from './target.js';

type Mutation = (input: Buffer, random: Random, sources: MutationSources) => Buffer;

export interface MutationSources {
  /** Of the same format, to take pieces from. */
  pool: readonly Uint8Array[];
  words: readonly string[];
}

/** Numbers at which formats change their mind. */
const edges = [
  0, 1, -1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 100, 127, 128, 255, 256, 511, 512, 1000, 1023, 1024,
  4095, 4096, 32767, 32768, 65535, 65536, 1e6, 16777216, 100663045, 2147483647, -2147483648,
  4294967295,
];

/** Pieces that many formats have, or trip over. */
const common = [
  ...['\0', '\n', '\r', '\r\n', '\t', ' ', '"', "'", '\\', '\\u0000', '\\ud800', ',', ':', ';'],
  ...['[', ']', '{', '}', '[]', '{}', 'null', 'true', 'false', 'NaN', '-Infinity', '1e999', '-0'],
  ...['-1', '0', '1', '4294967296', '9007199254740993', '18446744073709551615', '1e308', '0.1'],
  ...['__proto__', 'constructor', 'prototype', 'toString', '"__proto__":{"polluted":1}'],
  ...['\ufeff', '\u2028', '\u202e', '\u0301', '\ud83e\udd8a', '../', '/etc/passwd', 's3://a/b'],
];

function place(input: Buffer, random: Random): number {
  return random.below(input.length + 1);
}

function range(input: Buffer, random: Random): [number, number] {
  const start = place(input, random);
  // Short ranges matter more than long ones.
  const most = 1 << random.below(12);
  return [start, Math.min(input.length, start + 1 + random.below(most))];
}

function insert(input: Buffer, at: number, piece: Uint8Array): Buffer {
  return Buffer.concat([input.subarray(0, at), piece, input.subarray(at)]);
}

function over(input: Buffer, at: number, piece: Uint8Array): Buffer {
  const out = Buffer.from(input);
  out.set(piece.subarray(0, Math.max(0, out.length - at)), at);
  return out;
}

function binary(random: Random): Buffer {
  const value = random.of(edges);
  const bytes = Buffer.alloc(8);
  bytes.writeInt32LE(value | 0);
  const width = random.of([1, 2, 4, 8]);
  return random.below(2) === 0 ? bytes.subarray(0, width) : bytes.subarray(0, width).reverse();
}

const mutations: readonly Mutation[] = [
  function flipBit(input, random) {
    const out = Buffer.from(input);
    const at = random.below(input.length);
    out[at] = (out[at] ?? 0) ^ (1 << random.below(8));
    return out;
  },
  (input, random) => over(input, random.below(input.length), Buffer.from([random.below(256)])),
  (input, random) => over(input, random.below(input.length), binary(random)),
  (input, random) => insert(input, place(input, random), binary(random)),
  function cut(input, random) {
    const [from, to] = range(input, random);
    return Buffer.concat([input.subarray(0, from), input.subarray(to)]);
  },
  function repeat(input, random) {
    const [from, to] = range(input, random);
    const times = 1 << random.below(7);
    const piece = Buffer.concat(Array<Buffer>(times).fill(input.subarray(from, to)));
    return insert(input, to, piece);
  },
  function move(input, random) {
    const [from, to] = range(input, random);
    return insert(input, place(input, random), input.subarray(from, to));
  },
  (input, random) => input.subarray(0, place(input, random)),
  function word(input, random, { words }) {
    const piece = Buffer.from(
      random.of(random.below(2) === 0 && words.length > 0 ? words : common),
    );
    const at = place(input, random);
    return random.below(2) === 0 ? insert(input, at, piece) : over(input, at, piece);
  },
  function number(input, random) {
    const found = [...input.toString('latin1').matchAll(/-?\d+/g)];
    if (found.length === 0) return input;
    const { 0: digits, index } = random.of(found);
    const value = random.below(3) === 0 ? Number(digits) + random.below(3) - 1 : random.of(edges);
    return Buffer.concat([
      input.subarray(0, index),
      Buffer.from(String(value)),
      input.subarray(index + digits.length),
    ]);
  },
  function splice(input, random, { pool }) {
    const other = Buffer.from(random.of(pool));
    const [from, to] = range(other, random);
    const at = place(input, random);
    return random.below(2) === 0
      ? insert(input, at, other.subarray(from, to))
      : Buffer.concat([input.subarray(0, at), other.subarray(from)]);
  },
];

/** One of the pool with a few changes; most often one or two. */
export function mutate(random: Random, sources: MutationSources): Buffer {
  let input = Buffer.from(random.of(sources.pool));
  for (let changes = 1 + random.below(1 << random.below(4)); changes > 0; changes--) {
    if (input.length === 0) input = Buffer.from([random.below(256)]);
    input = random
      .of(mutations)(input, random, sources)
      .subarray(0, limits.inputBytes) as Buffer<ArrayBuffer>;
  }
  return Buffer.from(input);
}
