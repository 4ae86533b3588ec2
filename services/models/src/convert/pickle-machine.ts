/**
 * What a pickle's opcodes work on: the bytes, the stack and the memo. It keeps an account of what
 * is made: a few bytes can fetch a kept string again and have it copied, so the file's size alone
 * bounds nothing.
 */
import { invalid, type EngineError } from '@spindle/native';
import { PickleDict, type PickleValue, type StorageRef } from './pickle-values.js';

const mark = Symbol('mark');
type Slot = PickleValue | typeof mark;

/** The budget: so many bytes are made per byte read, beside what every pickle is free to make. */
const madePerByte = 64;
const madeFreely = 64 << 20;

/** About what things take in memory, in bytes. */
export const cost = {
  /** A place on the stack, and later in what holds the value. */
  slot: 24,
  /** An object with a few members. */
  object: 64,
  /** A Buffer, beside what is in it. */
  buffer: 128,
  dict: 256,
  entry: 64,
  /** A character that may be of two bytes. */
  character: 2,
  number: 8,
} as const;

/** Longest part of a name that an error shows. */
const maxQuoted = 100;

export class PickleMachine {
  /** All that were named so far. */
  readonly storages: StorageRef[] = [];
  readonly #stack: Slot[] = [];
  readonly #memo = new Map<number, PickleValue>();
  #at: number;
  /** Offset of the opcode that is being carried out. */
  #opcodeAt = 0;
  #made = 0;

  constructor(
    readonly bytes: Buffer,
    readonly start: number,
    readonly where: string,
  ) {
    this.#at = start;
  }

  /** Where the next byte is read. */
  get at(): number {
    return this.#at;
  }

  get depth(): number {
    return this.#stack.length;
  }

  nextOpcode(): number {
    this.#opcodeAt = this.#at;
    return this.uint(1);
  }

  take(count: number): Buffer {
    if (this.#at + count > this.bytes.length) {
      throw this.bad(`expected ${count} more bytes, got the end of the pickle`);
    }
    const taken = this.bytes.subarray(this.#at, this.#at + count);
    this.#at += count;
    return taken;
  }

  uint(size: number): number {
    return this.take(size).readUIntLE(0, size);
  }

  /** Little-endian, of two's complement. */
  long(size: number): number | bigint {
    const bytes = this.take(size);
    let value = 0n;
    for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i] ?? 0);
    if (size > 0 && ((bytes[size - 1] ?? 0) & 0x80) !== 0) value -= 1n << BigInt(8 * size);
    this.charge(size);
    return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER)
      ? Number(value)
      : value;
  }

  text(size: number): string {
    const bytes = this.take(size);
    this.charge(cost.object + cost.character * size);
    return bytes.toString('utf8');
  }

  line(): string {
    const end = this.bytes.indexOf(0x0a, this.#at);
    if (end < 0) throw this.bad('expected a line, got the end of the pickle');
    const line = this.bytes.toString('utf8', this.#at, end);
    this.#at = end + 1;
    this.charge(cost.object + cost.character * line.length);
    return line;
  }

  push(value: PickleValue): void {
    this.charge(cost.slot);
    this.#stack.push(value);
  }

  pushMark(): void {
    this.charge(cost.slot);
    this.#stack.push(mark);
  }

  top(): PickleValue {
    const top = this.#stack.at(-1);
    if (top === undefined || top === mark) {
      throw this.bad('expected a value on the stack, got none');
    }
    return top;
  }

  pop(): PickleValue {
    const top = this.top();
    this.#stack.pop();
    return top;
  }

  popToMark(): PickleValue[] {
    const at = this.#stack.lastIndexOf(mark);
    if (at < 0) throw this.bad('expected a mark on the stack, got none');
    return this.#stack.splice(at).slice(1) as PickleValue[];
  }

  /** The list that APPEND and APPENDS add to. */
  list(): PickleValue[] {
    const top = this.top();
    if (!Array.isArray(top)) throw this.bad('expected a list on the stack, got something else');
    return top;
  }

  dict(): PickleDict {
    const top = this.top();
    if (!(top instanceof PickleDict)) {
      throw this.bad('expected a dictionary on the stack, got something else');
    }
    return top;
  }

  /** What lies that far below the top (1: the top itself), or on the last mark (no number). */
  peek(below?: number): PickleValue | undefined {
    const stack = this.#stack;
    const value = stack[below === undefined ? stack.lastIndexOf(mark) + 1 : stack.length - below];
    return value === mark ? undefined : value;
  }

  /** Keeps the top; without a key, under the next one. */
  keep(key = this.#memo.size): void {
    const top = this.top();
    this.charge(cost.entry);
    this.#memo.set(key, top);
  }

  recall(key: number): PickleValue {
    const value = this.#memo.get(key);
    if (value === undefined) {
      throw this.bad(`memo ${key}: expected a value that was kept, got none`);
    }
    return value;
  }

  /** Enters `bytes` into the account, before they are made; so are items that are gone through. */
  charge(bytes: number): void {
    this.#made += bytes;
    const read = this.#at - this.start;
    if (this.#made > madePerByte * read + madeFreely) {
      throw this.bad(
        `expected a pickle that makes at most ${madePerByte} times its own bytes ` +
          `and ${madeFreely >> 20} MiB, got one that makes more`,
      );
    }
  }

  bad(what: string): EngineError {
    return invalid(`${this.where}, byte ${this.#opcodeAt - this.start}`, what);
  }
}

/** A name of the file in an error. */
export function quoted(name: string): string {
  return JSON.stringify(name.slice(0, maxQuoted));
}
