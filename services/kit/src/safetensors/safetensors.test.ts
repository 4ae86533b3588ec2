import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readSafetensors } from './read.js';
import { asFloat32, asNumbers, fromFloat32, fromInt64, type TensorEntry } from './values.js';
import { writeSafetensorsFile } from './write-files.js';
import { writeSafetensors } from './write.js';

function file(header: unknown, data = Buffer.alloc(0)): Buffer {
  const text = typeof header === 'string' ? header : JSON.stringify(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  return Buffer.concat([length, Buffer.from(text), data]);
}

function tensor(dtype: string, shape: unknown, begin: number, end: number): unknown {
  return { dtype, shape, data_offsets: [begin, end] };
}

test('tensors and metadata survive writing and reading', () => {
  const tensors = new Map<string, TensorEntry>([
    ['b', fromFloat32([2, 2], new Float32Array([1, -2, 3.5, Infinity]))],
    ['index', fromInt64([0, 7, -1])],
    ['a', { dtype: 'U8', shape: [3], data: new Uint8Array([1, 2, 3]) }],
    ['scalar', fromFloat32([], new Float32Array([42]))],
    ['empty', fromFloat32([0, 4], new Float32Array())],
  ]);
  const bytes = writeSafetensors(tensors, { format: 'pt', a: 'ü' });
  const { tensors: read, metadata } = readSafetensors(bytes, 'x');
  expect(metadata).toEqual({ a: 'ü', format: 'pt' });
  expect([...read.keys()].sort()).toEqual(['a', 'b', 'empty', 'index', 'scalar']);
  for (const [name, { dtype, shape, data }] of tensors) {
    expect(read.get(name)).toMatchObject({ dtype, shape });
    expect(Buffer.from(read.get(name)!.data)).toEqual(Buffer.from(data));
  }
  expect(asNumbers(read.get('index')!)).toEqual([0, 7, -1]);
  expect([...asFloat32(read.get('b')!)]).toEqual([1, -2, 3.5, Infinity]);
});

test('the same tensors give the same bytes whatever their order, and every tensor is aligned', () => {
  const a: [string, TensorEntry] = ['a', { dtype: 'U8', shape: [3], data: new Uint8Array(3) }];
  const b: [string, TensorEntry] = ['b', fromInt64([1])];
  const c: [string, TensorEntry] = ['10', fromFloat32([1], new Float32Array(1))];
  const d: [string, TensorEntry] = ['9', fromFloat32([1], new Float32Array(1))];
  const bytes = writeSafetensors(new Map([a, b, c, d]));
  expect(writeSafetensors(new Map([d, c, b, a]))).toEqual(bytes);
  const headerBytes = Number(bytes.readBigUInt64LE());
  expect(headerBytes % 8).toBe(0);
  expect(
    bytes
      .subarray(8, 8 + headerBytes)
      .toString()
      .trimEnd(),
  ).toBe(
    '{"b":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"10":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},' +
      '"9":{"dtype":"F32","shape":[1],"data_offsets":[12,16]},"a":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}}',
  );
});

test('every dtype is converted', () => {
  const entry = (dtype: TensorEntry['dtype'], data: Uint8Array): number[] =>
    asNumbers({ dtype, shape: [data.length], data });
  expect(
    entry('F16', new Uint8Array(new Uint16Array([0x3c00, 0xc000, 0x7c00, 0x0001, 0x7bff]).buffer)),
  ).toEqual([1, -2, Infinity, 2 ** -24, 65504]);
  expect(entry('BF16', new Uint8Array(new Uint16Array([0x3f80, 0xc040, 0xff80]).buffer))).toEqual([
    1,
    -3,
    -Infinity,
  ]);
  expect(entry('F64', new Uint8Array(new Float64Array([Math.PI]).buffer))).toEqual([Math.PI]);
  expect(entry('I32', new Uint8Array(new Int32Array([-5]).buffer))).toEqual([-5]);
  expect(entry('I16', new Uint8Array(new Int16Array([-300]).buffer))).toEqual([-300]);
  expect(entry('I8', new Uint8Array([255]))).toEqual([-1]);
  expect(entry('U8', new Uint8Array([255]))).toEqual([255]);
  expect(entry('BOOL', new Uint8Array([1]))).toEqual([1]);
});

test('metadata may be null, as its own reader has it', () => {
  expect(readSafetensors(file('{"__metadata__":null}'), 'x').metadata).toEqual({});
});

test('an integer that a double cannot hold is refused', () => {
  const data = new Uint8Array(new BigInt64Array([2n ** 60n]).buffer);
  expect(() => asNumbers({ dtype: 'I64', shape: [1], data })).toThrow(/expected at most 2\^53/);
});

test('unaligned float data is read correctly', () => {
  const buffer = Buffer.concat([Buffer.alloc(1), Buffer.from(new Float32Array([1.5]).buffer)]);
  expect([...asFloat32({ dtype: 'F32', shape: [1], data: buffer.subarray(1) })]).toEqual([1.5]);
});

const four = Buffer.alloc(4);
test.each<[string, Buffer, RegExp]>([
  ['too short', Buffer.alloc(3), /expected at least 8 bytes, got 3/],
  [
    'a huge header',
    Buffer.concat([Buffer.from([255, 255, 255, 255, 255, 255, 255, 255])]),
    /header length: expected at most 100000000 bytes, got 18446744073709551615/,
  ],
  [
    'a header past the end',
    Buffer.concat([Buffer.from([9, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('{}')]),
    /header length: expected at most 2 bytes/,
  ],
  ['no JSON', file('{"a":'), /header: expected a JSON object in UTF-8/],
  [
    'invalid UTF-8',
    Buffer.concat([Buffer.from([3, 0, 0, 0, 0, 0, 0, 0]), Buffer.from([0x22, 0xff, 0x22])]),
    /header: expected a JSON object in UTF-8/,
  ],
  ['a list', file('[]'), /header: expected a JSON object/],
  ['leading space', file(' {}'), /header: expected a JSON object/],
  [
    'a duplicate tensor',
    file(
      '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
      four,
    ),
    /the key "a" occurs twice/,
  ],
  [
    'a duplicate tensor behind much space',
    file(
      `{"a"${' '.repeat(40)}:{"dtype":"F32","shape":[1],"data_offsets":[0,4]},` +
        `"a"${' '.repeat(40)}:{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`,
      four,
    ),
    /the key "a" occurs twice/,
  ],
  [
    'a shape without end',
    file({ a: tensor('F32', Array<number>(200_000).fill(Number.MAX_SAFE_INTEGER), 0, 4) }, four),
    /tensor "a": shape: expected a list of at most 16 non-negative integers, got \[9007/,
  ],
  [
    'a dtype too deep to write',
    file(
      `{"a":{"dtype":${'['.repeat(1e5)}${']'.repeat(1e5)},"shape":[1],"data_offsets":[0,4]}}`,
      four,
    ),
    /tensor "a": dtype: expected one of .*, got \[\[/,
  ],
  [
    'a duplicate field',
    file('{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', four),
    /the key "dtype" occurs twice/,
  ],
  [
    'an unknown dtype',
    file({ a: tensor('F8_E4M3', [4], 0, 4) }, four),
    /tensor "a": dtype: expected one of .*, got "F8_E4M3"/,
  ],
  [
    'a dtype from the prototype',
    file({ a: tensor('toString', [4], 0, 4) }, four),
    /dtype: expected one of/,
  ],
  [
    'a negative size',
    file({ a: tensor('F32', [-1], 0, 4) }, four),
    /shape: expected a list of at most 16 non-negative integers, got \[-1\]/,
  ],
  ['a fractional size', file({ a: tensor('F32', [0.5, 2], 0, 4) }, four), /shape: expected a list/],
  [
    'a shape that overflows',
    file({ a: tensor('F32', [2 ** 40, 2 ** 40], 0, 4) }, four),
    /expected 4835703278458516698824704 bytes/,
  ],
  [
    'an end past the data',
    file({ a: tensor('F32', [2], 0, 8) }, four),
    /data_offsets: expected begin <= end <= 4, got \[0, 8\]/,
  ],
  [
    'an end before the begin',
    file({ a: tensor('F32', [0], 4, 0) }, four),
    /data_offsets: expected begin <= end/,
  ],
  [
    'a size that does not match',
    file({ a: tensor('F32', [2], 0, 4) }, four),
    /expected 8 bytes for F32 \[2\], got 4/,
  ],
  [
    'a hole',
    file({ a: tensor('U8', [1], 0, 1), b: tensor('U8', [2], 2, 4) }, four),
    /tensor "b": expected its data to begin at 1, got 2 \(a hole\)/,
  ],
  [
    'an overlap',
    file({ a: tensor('U8', [3], 0, 3), b: tensor('U8', [2], 2, 4) }, four),
    /tensor "b": .* \(an overlap\)/,
  ],
  [
    'bytes after the end',
    file({ a: tensor('U8', [3], 0, 3) }, four),
    /expected 3 bytes of tensor data, got 4/,
  ],
  [
    'metadata that is no text',
    file({ __metadata__: { a: 1 } }),
    /__metadata__.a: expected a string, got number/,
  ],
])('a file with %s is refused by name', (_what, bytes, message) => {
  expect(() => readSafetensors(bytes, 'dir/model.safetensors')).toThrow(message);
  expect(() => readSafetensors(bytes, 'dir/model.safetensors')).toThrow(
    /^dir\/model.safetensors: /,
  );
});

test('data that does not fit its shape is not written', () => {
  expect(() => fromFloat32([3], new Float32Array(2))).toThrow(
    /shape \[3\]: expected 3 values, got 2/,
  );
  const bad: TensorEntry = { dtype: 'F32', shape: [2], data: new Uint8Array(4) };
  expect(() => writeSafetensors(new Map([['x', bad]]))).toThrow(/tensor "x": expected 8 bytes/);
});

test('a tensor may have any name', () => {
  const entry = fromFloat32([1], new Float32Array([1]));
  const names = ['__proto__', 'a"b', '日本', '{', 'x:y'];
  const read = readSafetensors(writeSafetensors(new Map(names.map((name) => [name, entry]))), 'x');
  expect([...read.tensors.keys()].sort()).toEqual([...names].sort());
});

test('leaves holes that read as zeros, between values and at the end', () => {
  const folder = mkdtempSync(join(tmpdir(), 'spindle-hollow-'));
  try {
    const path = join(folder, 'model.safetensors');
    const shape = [1000, 1000];
    const values = Float32Array.of(1, 2);
    writeSafetensorsFile(path, [
      { name: 'a', dtype: 'F32', shape, chunks: null },
      { name: 'b', dtype: 'F32', shape: [2], chunks: () => [new Uint8Array(values.buffer)] },
      { name: 'c', dtype: 'F32', shape, chunks: null },
    ]);
    const { tensors } = readSafetensors(readFileSync(path), path);
    const read = (name: string): number[] => asNumbers(tensors.get(name) ?? fromInt64([]));
    expect(read('b')).toEqual([1, 2]);
    for (const name of ['a', 'c']) {
      expect(read(name)).toHaveLength(1_000_000);
      expect(read(name).every((value) => value === 0)).toBe(true);
    }
    // Blocks are 512 bytes.
    expect(statSync(path).blocks * 512).toBeLessThan(1_000_000);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
