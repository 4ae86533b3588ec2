import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  dictPickle,
  floats,
  op,
  tensorPickle,
  torchLegacy,
  torchZip,
  zip,
  type ArchivedTensor,
} from '../testing/torch-archives.js';
import { bytesOf, RandomFile } from './files.js';
import { readTorchArchive } from './torch-archive.js';

const scratch = mkdtempSync(join(tmpdir(), 'archive-'));
afterAll(() => rmSync(scratch, { recursive: true }));

let files = 0;
function read(bytes: Buffer) {
  const path = join(scratch, `${++files}.pt`);
  writeFileSync(path, bytes);
  const file = new RandomFile(path);
  try {
    const { tensors, others } = readTorchArchive(file);
    return {
      others,
      tensors: tensors.map((source) => ({
        name: source.name,
        dtype: source.dtype,
        shape: source.shape,
        bytes: bytesOf(source),
      })),
    };
  } finally {
    file.close();
  }
}

const tensor = (change: Partial<ArchivedTensor> = {}): ArchivedTensor => ({
  name: 'w',
  type: 'FloatStorage',
  key: '0',
  elements: 6,
  offset: 0,
  shape: [2, 3],
  stride: [3, 1],
  ...change,
});
const six = floats(1, 2, 3, 4, 5, 6);
const one = (change: Partial<ArchivedTensor> = {}): Buffer =>
  dictPickle([['w', tensorPickle(tensor(change))]]);

describe('a tensor archive', () => {
  it('gives tensors of every type, under their names', () => {
    const half = Buffer.from([0, 0x3c, 0, 0x40]);
    const ids = Buffer.from(BigInt64Array.from([7n]).buffer);
    const body = dictPickle([
      ['w', tensorPickle(tensor())],
      [
        'h',
        tensorPickle(
          tensor({ type: 'HalfStorage', key: '1', elements: 2, shape: [2], stride: [1] }),
        ),
      ],
      [
        'b',
        tensorPickle(
          tensor({
            type: 'BFloat16Storage',
            key: '2',
            elements: 2,
            shape: [1, 2],
            stride: [2, 1],
            parameter: true,
          }),
        ),
      ],
      [
        'ids',
        tensorPickle(tensor({ type: 'LongStorage', key: '3', elements: 1, shape: [], stride: [] })),
      ],
      ['epoch', op.int(3)],
    ]);
    for (const zip64 of [false, true]) {
      const { tensors, others } = read(
        torchZip(body, { 0: six, 1: half, 2: half, 3: ids }, { zip64 }),
      );
      expect(tensors).toEqual([
        { name: 'w', dtype: 'F32', shape: [2, 3], bytes: six },
        { name: 'h', dtype: 'F16', shape: [2], bytes: half },
        { name: 'b', dtype: 'BF16', shape: [1, 2], bytes: half },
        { name: 'ids', dtype: 'I64', shape: [], bytes: ids },
      ]);
      expect(others).toEqual(['epoch']);
    }
  });

  it('follows strides and offsets, and lets tensors share a storage', () => {
    const body = dictPickle([
      ['turned', tensorPickle(tensor({ shape: [3, 2], stride: [1, 3] }))],
      ['row', tensorPickle(tensor({ offset: 3, shape: [3], stride: [1] }))],
      ['column', tensorPickle(tensor({ offset: 1, shape: [2], stride: [3] }))],
      ['empty', tensorPickle(tensor({ shape: [0, 3], stride: [3, 1] }))],
    ]);
    const { tensors } = read(torchZip(body, { 0: six }));
    expect(tensors.map(({ bytes }) => bytes)).toEqual([
      floats(1, 4, 2, 5, 3, 6),
      floats(4, 5, 6),
      floats(2, 5),
      floats(),
    ]);
  });

  it('may be a training checkpoint: its state_dict counts', () => {
    const body = Buffer.concat([
      op.emptyDict,
      op.mark,
      op.text('epoch'),
      op.int(4),
      op.text('state_dict'),
      one(),
      op.setItems,
    ]);
    expect(read(torchZip(body, { 0: six })).tensors.map(({ name }) => name)).toEqual(['w']);
  });

  it("may have Lightning's classes and numpy's numbers beside its weights", () => {
    const reduce = (module: string, name: string, ...parts: Buffer[]): Buffer =>
      Buffer.concat([op.global(module, name), op.mark, ...parts, op.tuple, op.reduce]);
    const state = [
      op.mark,
      op.int(3),
      op.text('<'),
      op.none,
      op.none,
      op.none,
      op.int(-1),
      op.int(-1),
      op.int(0),
      op.tuple,
      op.build,
    ];
    const dtype = Buffer.concat([
      reduce('numpy', 'dtype', op.text('f8'), op.int(0), op.int(1)),
      ...state,
    ]);
    const eight = reduce(
      '_codecs',
      'encode',
      op.text('\x00\x00\x00\x00\x00\x00\xf0?'),
      op.text('latin1'),
    );
    const score = reduce('numpy.core.multiarray', 'scalar', dtype, eight);
    const kept = Buffer.concat([op.emptyDict, op.text('best_model_score'), score, op.setItem]);
    const callbacks = Buffer.concat([
      op.emptyDict,
      op.global('pytorch_lightning.callbacks.model_checkpoint', 'ModelCheckpoint'),
      kept,
      op.setItem,
    ]);
    const moments = Buffer.concat([
      op.emptyList,
      op.mark,
      tensorPickle(tensor({ key: '7' }), true),
      op.appends,
    ]);
    const body = Buffer.concat([
      op.emptyDict,
      op.mark,
      ...[op.text('callbacks'), callbacks, op.text('optimizer_states'), moments],
      ...[op.text('state_dict'), dictPickle([['w', tensorPickle(tensor(), true)]])],
      op.setItems,
    ]);
    expect(read(torchZip(body, { 0: six, 7: six })).tensors).toEqual([
      { name: 'w', dtype: 'F32', shape: [2, 3], bytes: six },
    ]);
    const legacy = torchLegacy(body, [
      ['7', 6, floats(0, 0, 0, 0, 0, 0)],
      ['0', 6, six],
    ]);
    expect(read(legacy).tensors).toEqual([{ name: 'w', dtype: 'F32', shape: [2, 3], bytes: six }]);
  });

  it('may be in the older format', () => {
    const body = dictPickle([
      ['w', tensorPickle(tensor(), true)],
      [
        'v',
        tensorPickle(tensor({ key: '9', elements: 2, offset: 1, shape: [1], stride: [1] }), true),
      ],
    ]);
    const bytes = torchLegacy(body, [
      ['9', 2, floats(7, 8)],
      ['0', 6, six],
    ]);
    expect(read(bytes).tensors.map((each) => [each.name, each.bytes])).toEqual([
      ['w', six],
      ['v', floats(8)],
    ]);
    expect(() => read(bytes.subarray(0, bytes.length - 1))).toThrow(
      /storage 0: expected 24 bytes at \d+, got the end of the file/,
    );
  });
});

describe('nothing in a pickle is run', () => {
  const call = (callee: Buffer, argument: Buffer): Buffer =>
    Buffer.concat([callee, op.mark, argument, op.tuple, op.reduce]);
  const command = op.text('touch /tmp/owned');
  it.each<[string, Buffer, RegExp]>([
    [
      'os.system',
      call(op.global('os', 'system'), command),
      /data\.pkl, byte \d+: REDUCE: a call of "os\.system" is refused/,
    ],
    ['posix.system', call(op.global('posix', 'system'), command), /"posix\.system" is refused/],
    ['builtins.eval', call(op.global('builtins', 'eval'), command), /"builtins\.eval" is refused/],
    [
      'a name from the stack',
      call(Buffer.concat([op.text('subprocess'), op.text('Popen'), Buffer.from([0x93])]), command),
      /a call of "subprocess\.Popen" is refused/,
    ],
    [
      'a name that was kept and is fetched',
      Buffer.concat([
        op.emptyList,
        op.mark,
        op.global('os', 'system'),
        op.put(9),
        call(op.get(9), command),
        op.appends,
      ]),
      /a call of "os\.system" is refused/,
    ],
    [
      'a call within what is called with',
      call(
        op.global('collections', 'OrderedDict'),
        Buffer.concat([call(op.global('builtins', 'exec'), command)]),
      ),
      /a call of "builtins\.exec" is refused/,
    ],
    [
      'a call as a key',
      Buffer.concat([
        op.emptyDict,
        call(op.global('builtins', 'eval'), command),
        op.none,
        op.setItem,
      ]),
      /a call of "builtins\.eval" is refused/,
    ],
    [
      "a call within a numpy number's type",
      call(op.global('numpy', 'dtype'), call(op.global('os', 'system'), command)),
      /a call of "os\.system" is refused/,
    ],
    [
      "torch's own loaders",
      call(op.global('torch.storage', '_load_from_bytes'), command),
      /"torch\.storage\._load_from_bytes" is refused/,
    ],
    [
      'a name that only looks allowed',
      call(op.global('torch._utils', '_rebuild_tensor_v2.__globals__'), command),
      /is refused/,
    ],
    [
      'a dotted module',
      call(op.global('collections.OrderedDict', '__init__'), command),
      /is refused/,
    ],
    [
      'a codec that runs',
      call(op.global('_codecs', 'encode'), Buffer.concat([command, op.text('zip')])),
      /expected a string and "latin1"/,
    ],
    [
      'a type of objects',
      call(op.global('numpy', 'dtype'), op.text('O8')),
      /numpy\.dtype: expected a number's type, such as f8/,
    ],
    [
      'a numpy number of another length',
      call(
        op.global('numpy.core.multiarray', 'scalar'),
        Buffer.concat([call(op.global('numpy', 'dtype'), op.text('f8')), Buffer.from('C\x01x')]),
      ),
      /a numpy scalar: expected a number's type and as many bytes/,
    ],
    [
      "numpy's arrays",
      call(op.global('numpy.core.multiarray', '_reconstruct'), command),
      /"numpy\.core\.multiarray\._reconstruct" is refused/,
    ],
    [
      'an object of a library',
      call(op.global('pytorch_lightning.callbacks', 'ModelCheckpoint'), op.none),
      /a call of "pytorch_lightning\.callbacks\.ModelCheckpoint" is refused/,
    ],
    ['INST', Buffer.from('(ios\nsystem\n'), /INST: an instance of "os\.system" is refused/],
    [
      'OBJ',
      Buffer.concat([op.mark, op.global('collections', 'OrderedDict'), Buffer.from('o')]),
      /OBJ: an instance of "collections\.OrderedDict"/,
    ],
    [
      'NEWOBJ',
      Buffer.concat([op.global('os', 'system'), op.emptyTuple, Buffer.from([0x81])]),
      /NEWOBJ: an instance of "os\.system" is refused/,
    ],
    [
      'NEWOBJ_EX',
      Buffer.concat([op.global('os', 'system'), op.emptyTuple, op.emptyDict, Buffer.from([0x92])]),
      /NEWOBJ_EX: an instance of "os\.system" is refused/,
    ],
    ['an extension registry', Buffer.from([0x82, 1]), /opcode 0x82 \(EXT1\)/],
    ['an unknown opcode', Buffer.from([0xff]), /opcode 0xff/],
    [
      'a call of a storage',
      call(op.global('torch', 'FloatStorage'), command),
      /REDUCE: a call of "torch\.FloatStorage" is refused/,
    ],
    ['a call of a string', call(op.text('os.system'), command), /REDUCE: expected an allowed name/],
    [
      'attributes of a name',
      Buffer.concat([op.global('torch', 'Size'), op.emptyDict, op.build]),
      /BUILD: attributes for "torch\.Size" is refused/,
    ],
  ])('%s', (_name, body, message) => {
    expect(() => read(torchZip(dictPickle([['w', body]]), { 0: six }))).toThrow(message);
  });
});

describe('what is broken is refused in one sentence', () => {
  const huge = 2 ** 31 - 1;
  it.each<[string, () => Buffer, RegExp]>([
    ['a file of another kind', () => Buffer.from('hello, world'), /expected a file of torch\.save/],
    ['an empty file', () => Buffer.alloc(0), /expected a file of torch\.save/],
    [
      'a zip that was cut',
      () => torchZip(one(), { 0: six }).subarray(0, 300),
      /got one whose end is missing/,
    ],
    [
      'a zip without a pickle',
      () => zip({ 'a.txt': Buffer.from('x') }),
      /expected one member data\.pkl/,
    ],
    [
      'a compressed zip',
      () => torchZip(one(), { 0: six }, { method: 8 }),
      /data\.pkl: expected a stored member/,
    ],
    [
      'a pickle that was cut',
      () => zip({ 'archive/data.pkl': Buffer.concat([op.proto, op.emptyDict]) }),
      /got the end of the pickle/,
    ],
    [
      'a string longer than the pickle',
      () => zip({ 'archive/data.pkl': Buffer.concat([op.proto, op.text('abc').subarray(0, 6)]) }),
      /expected 3 more bytes/,
    ],
    [
      'a missing storage',
      () => torchZip(one({ key: '5' }), { 0: six }),
      /w: expected its storage 5 in the archive/,
    ],
    [
      'a storage that was cut',
      () => torchZip(one(), { 0: six.subarray(0, 20) }),
      /w: expected elements within its storage of 5, got element 5/,
    ],
    [
      'strides that leave the storage',
      () => torchZip(one({ stride: [huge, huge] }), { 0: six }),
      /w: expected elements within its storage/,
    ],
    [
      'negative strides',
      () => torchZip(one({ stride: [-3, 1] }), { 0: six }),
      /stride: expected non-negative integers/,
    ],
    [
      'a negative offset',
      () => torchZip(one({ offset: -1 }), { 0: six }),
      /expected a storage and an offset/,
    ],
    [
      'fewer strides than dimensions',
      () => torchZip(one({ stride: [1] }), { 0: six }),
      /expected as many strides as dimensions \(2\), got 1/,
    ],
    [
      'dimensions without end',
      () =>
        torchZip(one({ shape: Array<number>(17).fill(1), stride: Array<number>(17).fill(1) }), {
          0: six,
        }),
      /w: expected at most 16 dimensions, got 17/,
    ],
    [
      'a tensor that blows up',
      () => torchZip(one({ shape: [huge, huge], stride: [0, 0] }), { 0: six }),
      /at most 8 times the file's/,
    ],
    [
      'no tensors',
      () => torchZip(dictPickle([['epoch', op.int(1)]]), {}),
      /expected a dictionary of tensors, got none in it/,
    ],
    [
      'a bare list',
      () => torchZip(op.emptyList, {}),
      /expected a dictionary of tensors, got something else/,
    ],
    [
      'an unbalanced stack',
      () => torchZip(Buffer.concat([op.none, one()]), { 0: six }),
      /expected nothing beside the result/,
    ],
    [
      'a memo that was never kept',
      () => torchZip(op.get(9), {}),
      /memo 9: expected a value that was kept/,
    ],
    [
      'an item without a dictionary',
      () => torchZip(Buffer.concat([op.none, op.none, op.none, op.setItem]), {}),
      /expected a dictionary on the stack/,
    ],
    [
      'items without a mark',
      () => torchZip(Buffer.concat([op.emptyDict, op.setItems]), {}),
      /expected a mark on the stack/,
    ],
  ])('%s', (_name, bytes, message) => {
    expect(() => read(bytes())).toThrow(message);
  });
});
