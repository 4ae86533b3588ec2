import { createHash } from 'node:crypto';

/** Numbers that follow from a text alone, such as "seed 7, round 12". */
export class Random {
  readonly #label: string;
  #count = 0;

  constructor(label: string) {
    this.#label = label;
  }

  /** In [0, 1). */
  next(): number {
    const text = `${this.#label}/${this.#count++}`;
    return createHash('sha256').update(text).digest().readUIntBE(0, 6) / 2 ** 48;
  }

  /** A whole number in [from, to]. */
  int(from: number, to: number): number {
    return from + Math.floor(this.next() * (to - from + 1));
  }

  isTrue(chance: number): boolean {
    return this.next() < chance;
  }

  pick<T>(list: readonly [T, ...T[]]): T;
  pick<T>(list: readonly T[]): T | undefined;
  pick<T>(list: readonly T[]): T | undefined {
    return list[this.int(0, list.length - 1)];
  }

  /** As many as there are, at most; each of them once. */
  some<T>(list: readonly T[], count: number): T[] {
    const left = [...list];
    const taken: T[] = [];
    while (taken.length < count && left.length > 0)
      taken.push(...left.splice(this.int(0, left.length - 1), 1));
    return taken;
  }
}
