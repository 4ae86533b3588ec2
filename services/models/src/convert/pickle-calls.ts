/**
 * What is made where a pickle asks for a call: of the few functions here, none of them Python's.
 * Any other name is refused.
 */
import type { EngineError } from '@spindle/native';
import { cost, quoted, type PickleMachine } from './pickle-machine.js';
import {
  isCount,
  NumpyDtype,
  NumpyScalar,
  PickledBytes,
  PickleDict,
  PickledTensor,
  PickleGlobal,
  PickleTuple,
  StorageRef,
  type PickleValue,
} from './pickle-values.js';

type Arguments = readonly PickleValue[];
type Call = (machine: PickleMachine, args: Arguments) => PickleValue;

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

const calls: Readonly<Record<string, Call>> = {
  'torch._utils._rebuild_tensor_v2': tensor,
  'torch._utils._rebuild_parameter': parameter,
  'collections.OrderedDict': orderedDict,
  'torch.Size': (machine, [size]) => new PickleTuple(counts(machine, size, 'size')),
  // Numbers that numpy made: learning rates, scores.
  'numpy.dtype': numpyDtype,
  'numpy.core.multiarray.scalar': numpyScalar,
  'numpy._core.multiarray.scalar': numpyScalar,
  // How protocol 2 writes bytes.
  '_codecs.encode': encode,
};

/** REDUCE: what the call of `callee` makes. */
export function reduce(
  machine: PickleMachine,
  callee: PickleValue,
  given: PickleValue,
): PickleValue {
  const name = callee instanceof PickleGlobal ? callee.name : undefined;
  const args = given instanceof PickleTuple ? given.items : undefined;
  if (name === undefined || args === undefined) {
    throw machine.bad('REDUCE: expected an allowed name and a tuple, got something else');
  }
  const call = Object.hasOwn(calls, name) ? calls[name] : undefined;
  if (call === undefined) throw refused(machine, `REDUCE: a call of ${quoted(name)}`);
  machine.charge(cost.object);
  return call(machine, args);
}

/** BUILD: gives `state` to the top of the stack, as far as it has any bearing. */
export function build(machine: PickleMachine, state: PickleValue): void {
  const object = machine.top();
  if (object instanceof PickleGlobal) {
    throw refused(machine, `BUILD: attributes for ${quoted(object.name)}`);
  }
  // Attributes of a dictionary (a state dict's _metadata) say nothing about its tensors.
  if (object instanceof NumpyDtype) checkDtypeState(machine, state);
  else machine.dict();
}

/** BINPERSID: the storage that a persistent id names. */
export function storage(machine: PickleMachine, id: PickleValue): StorageRef {
  const items = id instanceof PickleTuple ? id.items : [];
  const [kind, type, key, , elements, view] = items;
  if (
    kind !== 'storage' ||
    !(type instanceof PickleGlobal) ||
    !storages.includes(type.name) ||
    typeof key !== 'string' ||
    !isCount(elements)
  ) {
    throw machine.bad(
      'persistent id: expected ("storage", type, key, location, number of elements), ' +
        'got something else',
    );
  }
  machine.charge(cost.object);
  if (view === undefined || view === null) return new StorageRef(type.name, key, elements, 0);
  const [viewKey, offset, size] = view instanceof PickleTuple ? view.items : [];
  if (typeof viewKey !== 'string' || !isCount(offset) || !isCount(size)) {
    throw machine.bad('persistent id: expected a view of (key, offset, size), got something else');
  }
  return new StorageRef(type.name, key, size, offset);
}

/** The error where an instance, a call or attributes of anything else are asked for. */
export function refused(machine: PickleMachine, what: string): EngineError {
  const known = Object.keys(calls).join(', ');
  return machine.bad(
    `${what} is refused: what comes of a pickle here is ${known} and torch's storages only`,
  );
}

function tensor(machine: PickleMachine, [from, offset, shape, stride]: Arguments): PickledTensor {
  if (!(from instanceof StorageRef) || !isCount(offset)) {
    throw machine.bad('a tensor: expected a storage and an offset, got something else');
  }
  return new PickledTensor(
    from,
    offset,
    counts(machine, shape, 'shape'),
    counts(machine, stride, 'stride'),
  );
}

function parameter(machine: PickleMachine, [of]: Arguments): PickledTensor {
  if (!(of instanceof PickledTensor)) {
    throw machine.bad('a parameter: expected a tensor, got something else');
  }
  return of;
}

function orderedDict(machine: PickleMachine, [given]: Arguments): PickleDict {
  const pairs = Array.isArray(given) ? given : [];
  machine.charge(cost.dict + cost.entry * pairs.length);
  const dict = new PickleDict();
  for (const pair of pairs) {
    const [key, value] = pair instanceof PickleTuple ? pair.items : Array.isArray(pair) ? pair : [];
    if (key === undefined || value === undefined) {
      throw machine.bad('OrderedDict: expected pairs, got something else');
    }
    dict.entries.set(key, value);
  }
  return dict;
}

function encode(machine: PickleMachine, args: Arguments): PickledBytes {
  const [text, encoding] = args;
  if (typeof text !== 'string' || encoding !== 'latin1' || args.length !== 2) {
    throw machine.bad('_codecs.encode: expected a string and "latin1", got something else');
  }
  machine.charge(cost.buffer + text.length);
  return new PickledBytes(Buffer.from(text, 'latin1'));
}

function numpyDtype(machine: PickleMachine, [code]: Arguments): NumpyDtype {
  const bytes =
    typeof code === 'string' && /^([fiu][1248]|b1)$/.test(code) ? Number(code[1]) : undefined;
  if (typeof code !== 'string' || bytes === undefined) {
    throw machine.bad("numpy.dtype: expected a number's type, such as f8, got something else");
  }
  return new NumpyDtype(code, bytes);
}

function numpyScalar(machine: PickleMachine, [dtype, bytes]: Arguments): NumpyScalar {
  if (
    !(dtype instanceof NumpyDtype) ||
    !(bytes instanceof PickledBytes) ||
    bytes.bytes.length !== dtype.bytes
  ) {
    throw machine.bad(
      "a numpy scalar: expected a number's type and as many bytes, got something else",
    );
  }
  return new NumpyScalar(dtype, bytes.bytes);
}

/** As dtype's __reduce__ gives it: (version, byte order, and what structures and arrays need). */
function checkDtypeState(machine: PickleMachine, state: PickleValue): void {
  const [version, order, ...rest] = state instanceof PickleTuple ? state.items : [];
  if (
    (version !== 3 && version !== 4) ||
    typeof order !== 'string' ||
    !['<', '|', '='].includes(order) ||
    rest.slice(0, 3).some((part) => part !== null)
  ) {
    throw machine.bad(
      'BUILD: expected the state of a little-endian number type of numpy, got something else',
    );
  }
}

function counts(
  machine: PickleMachine,
  value: PickleValue | undefined,
  what: string,
): readonly number[] {
  const items =
    value instanceof PickleTuple ? value.items : Array.isArray(value) ? value : undefined;
  machine.charge(cost.number * (items?.length ?? 0));
  if (items === undefined || !items.every(isCount)) {
    throw machine.bad(`a tensor's ${what}: expected non-negative integers, got something else`);
  }
  return items;
}
