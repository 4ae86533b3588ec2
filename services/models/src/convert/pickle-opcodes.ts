/** The opcodes that plain tensor archives use, of pickletools.py; any other one is refused. */
import { build, reduce, refused, storage } from './pickle-calls.js';
import { cost, quoted, type PickleMachine } from './pickle-machine.js';
import {
  PickledBytes,
  PickleDict,
  PickleGlobal,
  PickleTuple,
  type PickleValue,
} from './pickle-values.js';

/** Python's names and codes. */
export const op = {
  MARK: 0x28,
  EMPTY_TUPLE: 0x29,
  STOP: 0x2e,
  BINBYTES: 0x42,
  SHORT_BINBYTES: 0x43,
  BINFLOAT: 0x47,
  BININT: 0x4a,
  BININT1: 0x4b,
  BININT2: 0x4d,
  NONE: 0x4e,
  BINPERSID: 0x51,
  REDUCE: 0x52,
  BINUNICODE: 0x58,
  EMPTY_LIST: 0x5d,
  APPEND: 0x61,
  BUILD: 0x62,
  GLOBAL: 0x63,
  APPENDS: 0x65,
  BINGET: 0x68,
  INST: 0x69,
  LONG_BINGET: 0x6a,
  OBJ: 0x6f,
  BINPUT: 0x71,
  LONG_BINPUT: 0x72,
  SETITEM: 0x73,
  TUPLE: 0x74,
  SETITEMS: 0x75,
  EMPTY_DICT: 0x7d,
  PROTO: 0x80,
  NEWOBJ: 0x81,
  TUPLE1: 0x85,
  TUPLE2: 0x86,
  TUPLE3: 0x87,
  NEWTRUE: 0x88,
  NEWFALSE: 0x89,
  LONG1: 0x8a,
  SHORT_BINUNICODE: 0x8c,
  NEWOBJ_EX: 0x92,
  STACK_GLOBAL: 0x93,
  MEMOIZE: 0x94,
  FRAME: 0x95,
} as const;

/** Named where they are refused: they reach beyond the file. */
const refusedNames: Readonly<Record<number, string>> = {
  0x50: 'PERSID',
  0x82: 'EXT1',
  0x83: 'EXT2',
  0x84: 'EXT4',
};

const maxProtocol = 5;

type Handler = (machine: PickleMachine) => void;

/** STOP has none: it ends the pickle. */
const handlers: Readonly<Record<Exclude<keyof typeof op, 'STOP'>, Handler>> = {
  PROTO: checkProtocol,
  // Its length says nothing that is needed.
  FRAME: (machine) => machine.take(8),

  NONE: (machine) => machine.push(null),
  NEWTRUE: (machine) => machine.push(true),
  NEWFALSE: (machine) => machine.push(false),
  BININT: (machine) => machine.push(machine.take(4).readInt32LE()),
  BININT1: (machine) => machine.push(machine.uint(1)),
  BININT2: (machine) => machine.push(machine.uint(2)),
  LONG1: (machine) => machine.push(machine.long(machine.uint(1))),
  BINFLOAT: (machine) => machine.push(machine.take(8).readDoubleBE()),
  BINUNICODE: (machine) => machine.push(machine.text(machine.uint(4))),
  SHORT_BINUNICODE: (machine) => machine.push(machine.text(machine.uint(1))),
  BINBYTES: (machine) => pushBytes(machine, machine.uint(4)),
  SHORT_BINBYTES: (machine) => pushBytes(machine, machine.uint(1)),

  MARK: (machine) => machine.pushMark(),
  EMPTY_TUPLE: (machine) => pushObject(machine, new PickleTuple([])),
  TUPLE: (machine) => pushObject(machine, new PickleTuple(machine.popToMark())),
  TUPLE1: (machine) => pushTuple(machine, 1),
  TUPLE2: (machine) => pushTuple(machine, 2),
  TUPLE3: (machine) => pushTuple(machine, 3),
  EMPTY_LIST: (machine) => pushObject(machine, []),
  APPEND: append,
  APPENDS: appendAll,
  EMPTY_DICT: pushDict,
  SETITEM: setItem,
  SETITEMS: setItems,

  BINPUT: (machine) => machine.keep(machine.uint(1)),
  LONG_BINPUT: (machine) => machine.keep(machine.uint(4)),
  MEMOIZE: (machine) => machine.keep(),
  BINGET: (machine) => machine.push(machine.recall(machine.uint(1))),
  LONG_BINGET: (machine) => machine.push(machine.recall(machine.uint(4))),

  GLOBAL: (machine) => pushGlobal(machine, machine.line(), machine.line()),
  STACK_GLOBAL: pushNamedGlobal,
  BINPERSID: pushStorage,
  REDUCE: pushCall,
  BUILD: (machine) => build(machine, machine.pop()),

  INST: (machine) => {
    throw refused(machine, `INST: an instance of ${quoted(`${machine.line()}.${machine.line()}`)}`);
  },
  OBJ: (machine) => {
    throw refused(machine, `OBJ: an instance of ${named(machine.peek())}`);
  },
  NEWOBJ: (machine) => {
    throw refused(machine, `NEWOBJ: an instance of ${named(machine.peek(2))}`);
  },
  NEWOBJ_EX: (machine) => {
    throw refused(machine, `NEWOBJ_EX: an instance of ${named(machine.peek(3))}`);
  },
};

const byCode: ReadonlyMap<number, Handler> = new Map(
  Object.entries(handlers).map(([name, handler]) => [op[name as keyof typeof op], handler]),
);

/** Carries out one opcode other than STOP. */
export function carryOut(machine: PickleMachine, opcode: number): void {
  const handler = byCode.get(opcode);
  if (handler === undefined) {
    throw machine.bad(
      `opcode ${describe(opcode)}: expected one that plain tensor archives use; it is refused`,
    );
  }
  handler(machine);
}

function describe(opcode: number): string {
  const hex = `0x${opcode.toString(16).padStart(2, '0')}`;
  const name = refusedNames[opcode];
  return name === undefined ? hex : `${hex} (${name})`;
}

function named(value: PickleValue | undefined): string {
  return value instanceof PickleGlobal ? quoted(value.name) : 'something else';
}

function checkProtocol(machine: PickleMachine): void {
  const protocol = machine.uint(1);
  if (protocol > maxProtocol) {
    throw machine.bad(`expected pickle protocol 0 to ${maxProtocol}, got ${protocol}`);
  }
}

function pushObject(machine: PickleMachine, value: PickleValue): void {
  machine.charge(cost.object);
  machine.push(value);
}

function pushBytes(machine: PickleMachine, size: number): void {
  machine.charge(cost.buffer);
  machine.push(new PickledBytes(machine.take(size)));
}

function pushDict(machine: PickleMachine): void {
  machine.charge(cost.dict);
  machine.push(new PickleDict());
}

function pushTuple(machine: PickleMachine, length: number): void {
  const items = Array.from({ length }, () => machine.pop());
  pushObject(machine, new PickleTuple(items.reverse()));
}

function append(machine: PickleMachine): void {
  const value = machine.pop();
  machine.list().push(value);
}

function appendAll(machine: PickleMachine): void {
  const values = machine.popToMark();
  const list = machine.list();
  for (const value of values) list.push(value);
}

function setItem(machine: PickleMachine): void {
  const value = machine.pop();
  const key = machine.pop();
  const { entries } = machine.dict();
  machine.charge(cost.entry);
  entries.set(key, value);
}

function setItems(machine: PickleMachine): void {
  const values = machine.popToMark();
  if (values.length % 2 !== 0) {
    throw machine.bad('SETITEMS: expected keys and values in pairs, got an odd number');
  }
  const { entries } = machine.dict();
  machine.charge((cost.entry * values.length) / 2);
  for (let i = 0; i < values.length; i += 2) {
    entries.set(values[i] ?? null, values[i + 1] ?? null);
  }
}

function pushGlobal(machine: PickleMachine, module: string, name: string): void {
  machine.charge(cost.character * (module.length + name.length));
  pushObject(machine, new PickleGlobal(`${module}.${name}`));
}

function pushNamedGlobal(machine: PickleMachine): void {
  const name = machine.pop();
  const module = machine.pop();
  if (typeof name !== 'string' || typeof module !== 'string') {
    throw machine.bad('STACK_GLOBAL: expected two strings, got something else');
  }
  pushGlobal(machine, module, name);
}

function pushStorage(machine: PickleMachine): void {
  const found = storage(machine, machine.pop());
  machine.storages.push(found);
  machine.push(found);
}

function pushCall(machine: PickleMachine): void {
  const given = machine.pop();
  const callee = machine.pop();
  machine.push(reduce(machine, callee, given));
}
