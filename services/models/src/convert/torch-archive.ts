/**
 * The files of torch.save: a zip archive (since PyTorch 1.6: data.pkl, and a member of raw numbers
 * per storage) or, before that, pickles in a row with the storages behind them. Formats:
 * torch/serialization.py.
 */
import { invalid } from '@spindle/native';
import { dtypeBytes, tensorBytes, type TensorDtype, type TensorSource } from '@spindle/kit';
import type { RandomFile } from './files.js';
import { PickleDict, PickledTensor, type PickleValue } from './pickle-values.js';
import { readPickle, type Pickle } from './pickle.js';
import { zipMembers } from './zip.js';

const dtypes: Readonly<Record<string, TensorDtype>> = {
  'torch.FloatStorage': 'F32',
  'torch.HalfStorage': 'F16',
  'torch.BFloat16Storage': 'BF16',
  'torch.DoubleStorage': 'F64',
  'torch.LongStorage': 'I64',
  'torch.IntStorage': 'I32',
  'torch.ShortStorage': 'I16',
  'torch.CharStorage': 'I8',
  'torch.ByteStorage': 'U8',
  'torch.BoolStorage': 'BOOL',
};
const legacyMagic = 0x1950a86a20f9469cfc6cn;
const legacyProtocol = 1001;
/** More than any state dict's description; the numbers lie behind it. */
const maxPickleBytes = 64 << 20;
/** Tensors may share storages; what they come to together is bounded by the file. */
const maxExpansion = 8;

/** More than any model has; bounds what a shape costs. */
const maxRank = 16;

interface Extent {
  at: number;
  bytes: number;
}

export interface TorchArchive {
  tensors: TensorSource[];
  /** Entries of the dictionary that are no tensors, such as "epoch". */
  others: string[];
}

export function readTorchArchive(file: RandomFile): TorchArchive {
  const { value, storage } = isZip(file) ? readZip(file) : readLegacy(file);
  const { dict, prefix } = stateDict(value, file.path);
  const tensors: TensorSource[] = [];
  const others: string[] = [];
  let total = 0;
  for (const [key, entry] of dict.entries) {
    if (typeof key !== 'string')
      throw invalid(file.path, `${prefix}: expected names of tensors, got a key that is no string`);
    if (!(entry instanceof PickledTensor)) {
      others.push(key);
      continue;
    }
    const source = tensorSource(key, entry, file, storage);
    total += tensorBytes(source);
    if (total > maxExpansion * file.size)
      throw invalid(
        file.path,
        `${key}: expected tensors of at most ${maxExpansion} times the file's ${file.size} ` +
          'bytes together, got more',
      );
    tensors.push(source);
  }
  if (tensors.length === 0)
    throw invalid(file.path, 'expected a dictionary of tensors, got none in it');
  return { tensors, others };
}

function isZip(file: RandomFile): boolean {
  return file.size >= 4 && file.read(0, 4).readUInt32LE() === 0x04034b50;
}

/** The dictionary of weights: the value itself, or its "state_dict". */
function stateDict(value: PickleValue, path: string): { dict: PickleDict; prefix: string } {
  if (!(value instanceof PickleDict))
    throw invalid(path, 'expected a dictionary of tensors, got something else');
  const inner = value.entries.get('state_dict');
  return inner instanceof PickleDict
    ? { dict: inner, prefix: 'state_dict' }
    : { dict: value, prefix: 'the dictionary' };
}

function readZip(file: RandomFile): {
  value: PickleValue;
  storage: (key: string) => Extent | undefined;
} {
  const members = zipMembers(file);
  const pickles = [...members.keys()].filter(
    (name) => name === 'data.pkl' || name.endsWith('/data.pkl'),
  );
  const [name] = pickles;
  if (name === undefined || pickles.length > 1)
    throw invalid(
      file.path,
      `expected one member data.pkl, as torch.save writes, got ${pickles.length}`,
    );
  const root = name.slice(0, -'data.pkl'.length);
  const order = members.get(`${root}byteorder`);
  if (order !== undefined && file.read(order.at, order.bytes).toString('utf8') !== 'little')
    throw invalid(file.path, 'byteorder: expected little, got another');
  const extent = members.get(name);
  if (extent === undefined || extent.bytes > maxPickleBytes)
    throw invalid(file.path, `${name}: expected at most ${maxPickleBytes} bytes, got more`);
  const { value } = readPickle(file.read(extent.at, extent.bytes), 0, `${file.path}: ${name}`);
  return { value, storage: (key) => members.get(`${root}data/${key}`) };
}

function readLegacy(file: RandomFile): {
  value: PickleValue;
  storage: (key: string) => Extent | undefined;
} {
  const head = file.read(0, Math.min(file.size, maxPickleBytes));
  let at = 0;
  const nextPickle = (): Pickle => {
    const pickle = readPickle(head, at, file.path);
    at = pickle.end;
    return pickle;
  };
  const next = (): PickleValue => nextPickle().value;
  if (head[0] !== 0x80 || next() !== legacyMagic)
    throw invalid(
      file.path,
      "expected a file of torch.save (a zip archive, or PyTorch's older format), got neither",
    );
  if (next() !== legacyProtocol)
    throw invalid(file.path, `expected torch.save's protocol ${legacyProtocol}, got another`);
  const system = next();
  if (system instanceof PickleDict && system.entries.get('little_endian') === false)
    throw invalid(file.path, 'little_endian: expected true, got false');
  const { value, storages } = nextPickle();
  const keys = next();
  if (!Array.isArray(keys))
    throw invalid(file.path, 'expected a list of storage keys, got something else');
  // Sizes in bytes are known from the types alone: the file gives numbers of elements.
  const widths = new Map<string, number>();
  for (const { key, type } of storages) widths.set(key, dtypeBytes[dtypes[type] ?? 'U8']);
  const extents = new Map<string, Extent>();
  for (const key of keys) {
    const width = typeof key === 'string' ? widths.get(key) : undefined;
    if (typeof key !== 'string' || width === undefined)
      throw invalid(file.path, 'storage keys: expected those of the tensors, got another');
    const elements = Number(file.read(at, 8).readBigInt64LE());
    at += 8;
    const bytes = elements * width;
    if (elements < 0 || at + bytes > file.size)
      throw invalid(
        file.path,
        `storage ${key}: expected ${bytes} bytes at ${at}, got the end of the file at ${file.size}`,
      );
    extents.set(key, { at, bytes });
    at += bytes;
  }
  return { value, storage: (key) => extents.get(key) };
}

function tensorSource(
  name: string,
  tensor: PickledTensor,
  file: RandomFile,
  storage: (key: string) => Extent | undefined,
): TensorSource {
  const { shape, stride } = tensor;
  const dtype = dtypes[tensor.storage.type];
  const extent = storage(tensor.storage.key);
  if (dtype === undefined || extent === undefined)
    throw invalid(
      file.path,
      `${name}: expected its storage ${tensor.storage.key} in the archive, got none`,
    );
  if (shape.length > maxRank)
    throw invalid(
      file.path,
      `${name}: expected at most ${maxRank} dimensions, got ${shape.length}`,
    );
  if (shape.length !== stride.length)
    throw invalid(
      file.path,
      `${name}: expected as many strides as dimensions (${shape.length}), got ${stride.length}`,
    );
  const width = dtypeBytes[dtype];
  const first = tensor.storage.offset + tensor.offset;
  const count = shape.reduce((product, n) => product * n, 1);
  const last = first + shape.reduce((sum, n, i) => sum + (n - 1) * (stride[i] ?? 0), 0);
  if (count > 0 && !((last + 1) * width <= extent.bytes))
    throw invalid(
      file.path,
      `${name}: expected elements within its storage of ${extent.bytes / width}, got element ` +
        `${last}`,
    );
  const bytes = count * width;
  if (isContiguous(shape, stride))
    return { name, dtype, shape, chunks: () => file.chunks(extent.at + first * width, bytes) };
  return {
    name,
    dtype,
    shape,
    chunks: () => [
      gather(
        count === 0
          ? Buffer.alloc(0)
          : file.read(extent.at + first * width, (last - first + 1) * width),
        shape,
        stride,
        width,
        bytes,
      ),
    ],
  };
}

function isContiguous(shape: readonly number[], stride: readonly number[]): boolean {
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && stride[i] !== expected) return false;
    expected *= shape[i] ?? 1;
  }
  return true;
}

/** Elements in the order of the shape, from where their strides put them. */
function gather(
  from: Buffer,
  shape: readonly number[],
  stride: readonly number[],
  width: number,
  bytes: number,
): Buffer {
  const out = Buffer.alloc(bytes);
  const index = shape.map(() => 0);
  let source = 0;
  for (let at = 0; at < bytes; at += width) {
    from.copy(out, at, source * width, (source + 1) * width);
    for (let i = shape.length - 1; i >= 0; i--) {
      index[i] = (index[i] ?? 0) + 1;
      source += stride[i] ?? 0;
      if ((index[i] ?? 0) < (shape[i] ?? 0)) break;
      source -= (index[i] ?? 0) * (stride[i] ?? 0);
      index[i] = 0;
    }
  }
  return out;
}
