import { createHash } from 'node:crypto';

/** Counts captions that come more than once; remembers 9 bytes of each. */
export class Prompts {
  readonly #seen = new Set<string>();
  repeated = 0;

  add(caption: string): void {
    const digest = createHash('sha1').update(caption).digest('base64').slice(0, 12);
    if (this.#seen.has(digest)) this.repeated += 1;
    else this.#seen.add(digest);
  }

  get distinct(): number {
    return this.#seen.size;
  }

  warnings(): string[] {
    return this.repeated === 0
      ? []
      : [
          `data: ${this.repeated} rows repeat a prompt of an earlier row (${this.distinct} ` +
            'distinct prompts).',
        ];
  }
}
