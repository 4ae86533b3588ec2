/** torch.save's archives, put together byte by byte for tests. */
export const op = {
  proto: Buffer.from([0x80, 2]),
  stop: Buffer.from('.'),
  mark: Buffer.from('('),
  emptyDict: Buffer.from('}'),
  emptyTuple: Buffer.from(')'),
  emptyList: Buffer.from(']'),
  setItem: Buffer.from('s'),
  setItems: Buffer.from('u'),
  appends: Buffer.from('e'),
  tuple: Buffer.from('t'),
  reduce: Buffer.from('R'),
  build: Buffer.from('b'),
  persId: Buffer.from('Q'),
  none: Buffer.from('N'),
  newFalse: Buffer.from([0x89]),
  global: (module: string, name: string) => Buffer.from(`c${module}\n${name}\n`),
  text: (value: string) => {
    const bytes = Buffer.from(value);
    const head = Buffer.from([0x58, 0, 0, 0, 0]);
    head.writeUInt32LE(bytes.length, 1);
    return Buffer.concat([head, bytes]);
  },
  int: (value: number) => {
    const bytes = Buffer.from([0x4a, 0, 0, 0, 0]);
    bytes.writeInt32LE(value, 1);
    return bytes;
  },
  long: (hex: string) => {
    const bytes = Buffer.from(hex, 'hex').reverse();
    return Buffer.concat([Buffer.from([0x8a, bytes.length]), bytes]);
  },
  put: (slot: number) => Buffer.from([0x71, slot]),
  get: (slot: number) => Buffer.from([0x68, slot]),
};

export interface ArchivedTensor {
  name: string;
  /** "FloatStorage", … */
  type: string;
  key: string;
  elements: number;
  offset: number;
  shape: readonly number[];
  stride: readonly number[];
  parameter?: boolean;
}

const ints = (values: readonly number[]): Buffer =>
  Buffer.concat([op.mark, ...values.map(op.int), op.tuple]);

export function storageId({ type, key, elements }: ArchivedTensor, legacy: boolean): Buffer {
  const parts = [
    op.mark,
    op.text('storage'),
    op.global('torch', type),
    op.text(key),
    op.text('cpu'),
    op.int(elements),
  ];
  return Buffer.concat([...parts, ...(legacy ? [op.none] : []), op.tuple, op.persId]);
}

export function tensorPickle(tensor: ArchivedTensor, legacy = false): Buffer {
  const hooks = Buffer.concat([op.global('collections', 'OrderedDict'), op.emptyTuple, op.reduce]);
  const plain = Buffer.concat([
    op.global('torch._utils', '_rebuild_tensor_v2'),
    op.mark,
    storageId(tensor, legacy),
    op.int(tensor.offset),
    ints(tensor.shape),
    ints(tensor.stride),
    op.newFalse,
    hooks,
    op.tuple,
    op.reduce,
  ]);
  if (tensor.parameter !== true) return plain;
  return Buffer.concat([
    op.global('torch._utils', '_rebuild_parameter'),
    op.mark,
    plain,
    op.newFalse,
    hooks,
    op.tuple,
    op.reduce,
  ]);
}

/** An OrderedDict with torch's _metadata, as state_dict() gives it. */
export function dictPickle(entries: readonly (readonly [string, Buffer])[]): Buffer {
  const made = Buffer.concat([op.global('collections', 'OrderedDict'), op.emptyTuple, op.reduce]);
  const items = entries.flatMap(([key, value]) => [op.text(key), value]);
  const metadata = Buffer.concat([op.emptyDict, op.text('_metadata'), op.emptyDict, op.setItem]);
  return Buffer.concat([made, op.put(0), op.mark, ...items, op.setItems, metadata, op.build]);
}

export function pickle(body: Buffer): Buffer {
  return Buffer.concat([op.proto, body, op.stop]);
}

/** A stored zip archive; `zip64` writes sizes and offsets the way of large ones. */
export function zip(
  members: Readonly<Record<string, Buffer>>,
  { method = 0, zip64 = false } = {},
): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const [name, data] of Object.entries(members)) {
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(method, 8);
    local.writeUInt32LE(data.length, 18);
    local.writeUInt32LE(data.length, 22);
    local.writeUInt16LE(name.length, 26);
    // torch pads so that storages are aligned.
    local.writeUInt16LE(6, 28);
    const extra = Buffer.alloc(zip64 ? 28 : 0);
    if (zip64) {
      extra.writeUInt16LE(1, 0);
      extra.writeUInt16LE(24, 2);
      extra.writeBigUInt64LE(BigInt(data.length), 4);
      extra.writeBigUInt64LE(BigInt(data.length), 12);
      extra.writeBigUInt64LE(BigInt(at), 20);
    }
    const entry = Buffer.alloc(46);
    entry.writeUInt32LE(0x02014b50, 0);
    entry.writeUInt16LE(method, 10);
    entry.writeUInt32LE(zip64 ? 0xffffffff : data.length, 20);
    entry.writeUInt32LE(zip64 ? 0xffffffff : data.length, 24);
    entry.writeUInt16LE(name.length, 28);
    entry.writeUInt16LE(extra.length, 30);
    entry.writeUInt32LE(zip64 ? 0xffffffff : at, 42);
    directory.push(entry, Buffer.from(name), extra);
    const piece = Buffer.concat([local, Buffer.from(name), Buffer.alloc(6), data]);
    parts.push(piece);
    at += piece.length;
  }
  const entries = Buffer.concat(directory);
  const count = Object.keys(members).length;
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(zip64 ? 0xffff : count, 10);
  end.writeUInt32LE(zip64 ? 0xffffffff : entries.length, 12);
  end.writeUInt32LE(zip64 ? 0xffffffff : at, 16);
  if (!zip64) return Buffer.concat([...parts, entries, end]);
  const record = Buffer.alloc(56);
  record.writeUInt32LE(0x06064b50, 0);
  record.writeBigUInt64LE(BigInt(count), 32);
  record.writeBigUInt64LE(BigInt(entries.length), 40);
  record.writeBigUInt64LE(BigInt(at), 48);
  const locator = Buffer.alloc(20);
  locator.writeUInt32LE(0x07064b50, 0);
  locator.writeBigUInt64LE(BigInt(at + entries.length), 8);
  return Buffer.concat([...parts, entries, record, locator, end]);
}

export function torchZip(
  body: Buffer,
  storages: Readonly<Record<string, Buffer>>,
  options: { method?: number; zip64?: boolean } = {},
): Buffer {
  const data = Object.fromEntries(
    Object.entries(storages).map(([key, bytes]) => [`archive/data/${key}`, bytes]),
  );
  return zip(
    {
      'archive/data.pkl': pickle(body),
      'archive/byteorder': Buffer.from('little'),
      ...data,
      'archive/version': Buffer.from('3\n'),
    },
    options,
  );
}

/** The format before PyTorch 1.6. */
export function torchLegacy(
  body: Buffer,
  storages: readonly (readonly [string, number, Buffer])[],
): Buffer {
  const count = (elements: number): Buffer => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(elements));
    return bytes;
  };
  return Buffer.concat([
    pickle(op.long('1950a86a20f9469cfc6c')),
    pickle(op.int(1001)),
    pickle(Buffer.concat([op.emptyDict, op.text('protocol_version'), op.int(1001), op.setItem])),
    pickle(body),
    pickle(
      Buffer.concat([op.emptyList, op.mark, ...storages.map(([key]) => op.text(key)), op.appends]),
    ),
    ...storages.flatMap(([, elements, bytes]) => [count(elements), bytes]),
  ]);
}

export function floats(...values: number[]): Buffer {
  return Buffer.from(Float32Array.from(values).buffer);
}
