/**
 * Reads the pickles that torch.save writes for tensors and plain values, and nothing else. No class
 * is ever looked up and no function called: opcodes come from a short list, and so do the names
 * that are understood when something is to be made with them. Any other name is kept as a name,
 * which can lie somewhere (Lightning's checkpoints have classes as keys) but not be called, built
 * or given attributes: that is refused. What comes out is data: numbers, strings, lists, tuples,
 * dictionaries, and descriptions of tensors.
 */
import { invalid, type EngineError } from '@spindle/native';

export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | PickleValue[]
  | PickleTuple
  | PickleDict
  | PickleGlobal
  | StorageRef
  | PickledTensor
  | PickledBytes
  | NumpyDtype
  | NumpyScalar;

export class PickleTuple {
  constructor(readonly items: readonly PickleValue[]) {}
}
export class PickleDict {
  readonly entries = new Map<PickleValue, PickleValue>();
}
/** Of a class or function; nothing stands behind it. */
export class PickleGlobal {
  constructor(readonly name: string) {}
}
export class PickledBytes {
  constructor(readonly bytes: Buffer) {}
}
/** A numpy type such as "f8": numbers of `bytes` bytes. */
export class NumpyDtype {
  constructor(
    readonly code: string,
    readonly bytes: number,
  ) {}
}
/** A number among a training's settings. */
export class NumpyScalar {
  constructor(
    readonly dtype: NumpyDtype,
    readonly bytes: Buffer,
  ) {}
}
/** Raw numbers that lie elsewhere in the archive. */
export class StorageRef {
  constructor(
    readonly type: string,
    readonly key: string,
    readonly elements: number,
    /** First element within the storage named `key`: views of older files. */
    readonly offset: number,
  ) {}
}
export class PickledTensor {
  constructor(
    readonly storage: StorageRef,
    /** In elements of the storage. */
    readonly offset: number,
    readonly shape: readonly number[],
    readonly stride: readonly number[],
  ) {}
}

const storages = [
  'Float',
  'Half',
  'BFloat16',
  'Double',
  'Long',
  'Int',
  'Short',
  'Char',
  'Byte',
  'Bool',
].map((type) => `torch.${type}Storage`);
const functions = [
  'torch._utils._rebuild_tensor_v2',
  'torch._utils._rebuild_parameter',
  'collections.OrderedDict',
  'torch.Size',
  // Numbers that numpy made: learning rates, scores.
  'numpy.dtype',
  'numpy.core.multiarray.scalar',
  'numpy._core.multiarray.scalar',
  // How protocol 2 writes bytes.
  '_codecs.encode',
];

const mark = Symbol('mark');
type Slot = PickleValue | typeof mark;

export interface Pickle {
  value: PickleValue;
  /** Where the next pickle begins. */
  end: number;
  /** All that are named anywhere in it. */
  storages: readonly StorageRef[];
}

/** One pickle of `bytes` from `start`. */
export function readPickle(bytes: Buffer, start: number, where: string): Pickle {
  return new Machine(bytes, start, where).run();
}

class Machine {
  readonly #stack: Slot[] = [];
  readonly #memo = new Map<number, PickleValue>();
  readonly #storages: StorageRef[] = [];
  #at: number;
  /** Offset of the opcode that is being carried out. */
  #opcodeAt = 0;

  constructor(
    readonly bytes: Buffer,
    readonly start: number,
    readonly where: string,
  ) {
    this.#at = start;
  }

  run(): Pickle {
    for (;;) {
      this.#opcodeAt = this.#at;
      const opcode = this.#take(1)[0] ?? 0;
      if (opcode === 0x2e) {
        const value = this.#pop();
        if (this.#stack.length > 0)
          throw this.#bad('expected nothing beside the result on the stack, got more');
        return { value, end: this.#at, storages: this.#storages };
      }
      this.#step(opcode);
    }
  }

  #step(opcode: number): void {
    const stack = this.#stack;
    switch (opcode) {
      case 0x80: {
        const protocol = this.#uint(1);
        if (protocol > 5) throw this.#bad(`expected pickle protocol 0 to 5, got ${protocol}`);
        return;
      }
      case 0x95: // FRAME: its length says nothing that is needed
        this.#take(8);
        return;
      case 0x28: // MARK
        stack.push(mark);
        return;
      case 0x4e: // NONE
        stack.push(null);
        return;
      case 0x88:
      case 0x89: // NEWTRUE, NEWFALSE
        stack.push(opcode === 0x88);
        return;
      case 0x4a: // BININT
        stack.push(this.#take(4).readInt32LE());
        return;
      case 0x4b: // BININT1
        stack.push(this.#uint(1));
        return;
      case 0x4d: // BININT2
        stack.push(this.#uint(2));
        return;
      case 0x8a: // LONG1
        stack.push(this.#long(this.#uint(1)));
        return;
      case 0x47: // BINFLOAT
        stack.push(this.#take(8).readDoubleBE());
        return;
      case 0x58: // BINUNICODE
        stack.push(this.#text(this.#uint(4)));
        return;
      case 0x42: // BINBYTES
        stack.push(new PickledBytes(this.#take(this.#uint(4))));
        return;
      case 0x43: // SHORT_BINBYTES
        stack.push(new PickledBytes(this.#take(this.#uint(1))));
        return;
      case 0x8c: // SHORT_BINUNICODE
        stack.push(this.#text(this.#uint(1)));
        return;
      case 0x5d: // EMPTY_LIST
        stack.push([]);
        return;
      case 0x29: // EMPTY_TUPLE
        stack.push(new PickleTuple([]));
        return;
      case 0x7d: // EMPTY_DICT
        stack.push(new PickleDict());
        return;
      case 0x74: // TUPLE
        stack.push(new PickleTuple(this.#popToMark()));
        return;
      case 0x85:
      case 0x86:
      case 0x87: {
        // TUPLE1, TUPLE2, TUPLE3
        const items = Array.from({ length: opcode - 0x84 }, () => this.#pop());
        stack.push(new PickleTuple(items.reverse()));
        return;
      }
      case 0x61: {
        // APPEND
        const value = this.#pop();
        this.#list().push(value);
        return;
      }
      case 0x65: {
        // APPENDS
        const values = this.#popToMark();
        const list = this.#list();
        for (const value of values) list.push(value);
        return;
      }
      case 0x73: {
        // SETITEM
        const value = this.#pop();
        const key = this.#pop();
        this.#dict().entries.set(key, value);
        return;
      }
      case 0x75: {
        // SETITEMS
        const values = this.#popToMark();
        if (values.length % 2 !== 0)
          throw this.#bad('SETITEMS: expected keys and values in pairs, got an odd number');
        const { entries } = this.#dict();
        for (let i = 0; i < values.length; i += 2)
          entries.set(values[i] ?? null, values[i + 1] ?? null);
        return;
      }
      case 0x71: // BINPUT
        this.#memo.set(this.#uint(1), this.#top());
        return;
      case 0x72: // LONG_BINPUT
        this.#memo.set(this.#uint(4), this.#top());
        return;
      case 0x94: // MEMOIZE
        this.#memo.set(this.#memo.size, this.#top());
        return;
      case 0x68: // BINGET
        stack.push(this.#recall(this.#uint(1)));
        return;
      case 0x6a: // LONG_BINGET
        stack.push(this.#recall(this.#uint(4)));
        return;
      case 0x63: // GLOBAL
        stack.push(this.#global(this.#line(), this.#line()));
        return;
      case 0x93: {
        // STACK_GLOBAL
        const name = this.#pop();
        const module = this.#pop();
        if (typeof name !== 'string' || typeof module !== 'string')
          throw this.#bad('STACK_GLOBAL: expected two strings, got something else');
        stack.push(this.#global(module, name));
        return;
      }
      case 0x51: {
        // BINPERSID
        const storage = this.#storage(this.#pop());
        this.#storages.push(storage);
        stack.push(storage);
        return;
      }
      case 0x52: {
        // REDUCE
        const given = this.#pop();
        const callee = this.#pop();
        stack.push(this.#reduce(callee, given));
        return;
      }
      case 0x62: {
        // BUILD: attributes of a dictionary (a state dict's _metadata) have no bearing on its
        // tensors
        const state = this.#pop();
        const object = this.#top();
        if (object instanceof PickleGlobal)
          throw this.#refused(`BUILD: attributes for ${quoted(object.name)}`);
        if (object instanceof NumpyDtype) this.#checkDtypeState(state);
        else this.#dict();
        return;
      }
      case 0x69: // INST
        throw this.#refused(`INST: an instance of ${quoted(`${this.#line()}.${this.#line()}`)}`);
      case 0x6f: // OBJ
        throw this.#refused(`OBJ: an instance of ${this.#classAt(stack.lastIndexOf(mark) + 1)}`);
      case 0x81: // NEWOBJ
        throw this.#refused(`NEWOBJ: an instance of ${this.#classAt(stack.length - 2)}`);
      case 0x92: // NEWOBJ_EX
        throw this.#refused(`NEWOBJ_EX: an instance of ${this.#classAt(stack.length - 3)}`);
      default:
        throw this.#bad(
          `opcode ${describeOpcode(opcode)}: expected one that plain tensor archives use; it is refused`,
        );
    }
  }

  #global(module: string, name: string): PickleGlobal {
    return new PickleGlobal(`${module}.${name}`);
  }

  #classAt(index: number): string {
    const value = this.#stack[index];
    return value instanceof PickleGlobal ? quoted(value.name) : 'something else';
  }

  #refused(what: string): EngineError {
    return this.#bad(
      `${what} is refused: what comes of a pickle here is ${functions.join(', ')} and torch's storages only`,
    );
  }

  /** As dtype's __reduce__ gives it: (version, byte order, and what structures and arrays need). */
  #checkDtypeState(state: PickleValue): void {
    const [version, order, ...rest] = state instanceof PickleTuple ? state.items : [];
    if (
      (version !== 3 && version !== 4) ||
      typeof order !== 'string' ||
      !['<', '|', '='].includes(order) ||
      rest.slice(0, 3).some((part) => part !== null)
    )
      throw this.#bad(
        'BUILD: expected the state of a little-endian number type of numpy, got something else',
      );
  }

  #storage(id: PickleValue): StorageRef {
    const items = id instanceof PickleTuple ? id.items : [];
    const [kind, type, key, , elements, view] = items;
    if (
      kind !== 'storage' ||
      !(type instanceof PickleGlobal) ||
      !storages.includes(type.name) ||
      typeof key !== 'string' ||
      !isCount(elements)
    )
      throw this.#bad(
        'persistent id: expected ("storage", type, key, location, number of elements), got something else',
      );
    if (view === undefined || view === null) return new StorageRef(type.name, key, elements, 0);
    const [viewKey, offset, size] = view instanceof PickleTuple ? view.items : [];
    if (typeof viewKey !== 'string' || !isCount(offset) || !isCount(size))
      throw this.#bad('persistent id: expected a view of (key, offset, size), got something else');
    return new StorageRef(type.name, key, size, offset);
  }

  #reduce(callee: PickleValue, given: PickleValue): PickleValue {
    const name = callee instanceof PickleGlobal ? callee.name : undefined;
    const args = given instanceof PickleTuple ? given.items : undefined;
    if (name === undefined || args === undefined)
      throw this.#bad('REDUCE: expected an allowed name and a tuple, got something else');
    if (!functions.includes(name)) throw this.#refused(`REDUCE: a call of ${quoted(name)}`);
    switch (name) {
      case 'torch._utils._rebuild_tensor_v2': {
        const [storage, offset, shape, stride] = args;
        if (!(storage instanceof StorageRef) || !isCount(offset))
          throw this.#bad('a tensor: expected a storage and an offset, got something else');
        return new PickledTensor(
          storage,
          offset,
          this.#counts(shape, 'shape'),
          this.#counts(stride, 'stride'),
        );
      }
      case 'torch._utils._rebuild_parameter': {
        const [tensor] = args;
        if (!(tensor instanceof PickledTensor))
          throw this.#bad('a parameter: expected a tensor, got something else');
        return tensor;
      }
      case 'collections.OrderedDict': {
        const dict = new PickleDict();
        const [pairs] = args;
        for (const pair of Array.isArray(pairs) ? pairs : []) {
          const [key, value] =
            pair instanceof PickleTuple ? pair.items : Array.isArray(pair) ? pair : [];
          if (key === undefined || value === undefined)
            throw this.#bad('OrderedDict: expected pairs, got something else');
          dict.entries.set(key, value);
        }
        return dict;
      }
      case 'torch.Size':
        return new PickleTuple(this.#counts(args[0], 'size'));
      case '_codecs.encode': {
        const [text, encoding] = args;
        if (typeof text !== 'string' || encoding !== 'latin1' || args.length !== 2)
          throw this.#bad('_codecs.encode: expected a string and "latin1", got something else');
        return new PickledBytes(Buffer.from(text, 'latin1'));
      }
      case 'numpy.dtype': {
        const [code] = args;
        const bytes =
          typeof code === 'string' && /^([fiu][1248]|b1)$/.test(code) ? Number(code[1]) : undefined;
        if (typeof code !== 'string' || bytes === undefined)
          throw this.#bad("numpy.dtype: expected a number's type, such as f8, got something else");
        return new NumpyDtype(code, bytes);
      }
      case 'numpy.core.multiarray.scalar':
      case 'numpy._core.multiarray.scalar': {
        const [dtype, bytes] = args;
        if (
          !(dtype instanceof NumpyDtype) ||
          !(bytes instanceof PickledBytes) ||
          bytes.bytes.length !== dtype.bytes
        )
          throw this.#bad(
            "a numpy scalar: expected a number's type and as many bytes, got something else",
          );
        return new NumpyScalar(dtype, bytes.bytes);
      }
      default:
        throw this.#refused(`REDUCE: a call of ${quoted(name)}`);
    }
  }

  #counts(value: PickleValue | undefined, what: string): number[] {
    const items =
      value instanceof PickleTuple ? value.items : Array.isArray(value) ? value : undefined;
    if (items === undefined || !items.every(isCount))
      throw this.#bad(`a tensor's ${what}: expected non-negative integers, got something else`);
    return items as number[];
  }

  #list(): PickleValue[] {
    const top = this.#top();
    if (!Array.isArray(top)) throw this.#bad('expected a list on the stack, got something else');
    return top;
  }

  #dict(): PickleDict {
    const top = this.#top();
    if (!(top instanceof PickleDict))
      throw this.#bad('expected a dictionary on the stack, got something else');
    return top;
  }

  #top(): PickleValue {
    const top = this.#stack.at(-1);
    if (top === undefined || top === mark)
      throw this.#bad('expected a value on the stack, got none');
    return top;
  }

  #pop(): PickleValue {
    const top = this.#top();
    this.#stack.pop();
    return top;
  }

  #popToMark(): PickleValue[] {
    const at = this.#stack.lastIndexOf(mark);
    if (at < 0) throw this.#bad('expected a mark on the stack, got none');
    const values = this.#stack.splice(at).slice(1);
    return values as PickleValue[];
  }

  #recall(key: number): PickleValue {
    const value = this.#memo.get(key);
    if (value === undefined)
      throw this.#bad(`memo ${key}: expected a value that was kept, got none`);
    return value;
  }

  #take(count: number): Buffer {
    if (this.#at + count > this.bytes.length)
      throw this.#bad(`expected ${count} more bytes, got the end of the pickle`);
    const taken = this.bytes.subarray(this.#at, this.#at + count);
    this.#at += count;
    return taken;
  }

  #uint(size: number): number {
    return this.#take(size).readUIntLE(0, size);
  }

  #long(size: number): number | bigint {
    const bytes = this.#take(size);
    let value = 0n;
    for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i] ?? 0);
    if (size > 0 && ((bytes[size - 1] ?? 0) & 0x80) !== 0) value -= 1n << BigInt(8 * size);
    return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER)
      ? Number(value)
      : value;
  }

  #text(size: number): string {
    return this.#take(size).toString('utf8');
  }

  #line(): string {
    const end = this.bytes.indexOf(0x0a, this.#at);
    if (end < 0) throw this.#bad('expected a line, got the end of the pickle');
    const line = this.bytes.toString('utf8', this.#at, end);
    this.#at = end + 1;
    return line;
  }

  #bad(what: string): EngineError {
    return invalid(`${this.where}, byte ${this.#opcodeAt - this.start}`, what);
  }
}

function isCount(value: PickleValue | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function quoted(name: string): string {
  return JSON.stringify(name.slice(0, 100));
}

function describeOpcode(opcode: number): string {
  const hex = `0x${opcode.toString(16).padStart(2, '0')}`;
  const names: Readonly<Record<number, string>> = {
    0x82: 'EXT1',
    0x83: 'EXT2',
    0x84: 'EXT4',
    0x50: 'PERSID',
  };
  const name = names[opcode];
  return name === undefined ? hex : `${hex} (${name})`;
}
