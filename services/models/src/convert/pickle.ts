/**
 * Reads the pickles that torch.save writes for tensors and plain values, and nothing else. No class
 * is ever looked up and no function called: opcodes come from a short list, and so do the names
 * that are understood when something is to be made with them. Any other name is kept as a name,
 * which can lie somewhere (Lightning's checkpoints have classes as keys) but not be called, built
 * or given attributes: that is refused. What comes out is data: numbers, strings, lists, tuples,
 * dictionaries, and descriptions of tensors.
 */
import { PickleMachine } from './pickle-machine.js';
import { carryOut, op } from './pickle-opcodes.js';
import type { PickleValue, StorageRef } from './pickle-values.js';

export interface Pickle {
  value: PickleValue;
  /** Where the next pickle begins. */
  end: number;
  /** All that are named anywhere in it. */
  storages: readonly StorageRef[];
}

/** One pickle of `bytes` from `start`. */
export function readPickle(bytes: Buffer, start: number, where: string): Pickle {
  const machine = new PickleMachine(bytes, start, where);
  for (;;) {
    const opcode = machine.nextOpcode();
    if (opcode === op.STOP) break;
    carryOut(machine, opcode);
  }
  const value = machine.pop();
  if (machine.depth > 0) {
    throw machine.bad('expected nothing beside the result on the stack, got more');
  }
  return { value, end: machine.at, storages: machine.storages };
}
