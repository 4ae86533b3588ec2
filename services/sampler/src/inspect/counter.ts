export interface Summary {
  least: number;
  median: number;
  p95: number;
  most: number;
  mean: number;
}

/** Quantiles of numbers of which few are different: keeps how often each came. */
export class Counter {
  readonly #counts = new Map<number, number>();
  #total = 0;

  add(value: number): void {
    this.#counts.set(value, (this.#counts.get(value) ?? 0) + 1);
    this.#total += 1;
  }

  above(limit: number): number {
    let count = 0;
    for (const [value, n] of this.#counts) if (value > limit) count += n;
    return count;
  }

  /**
   * All 0 without numbers. A quantile is the smallest value that this share of the numbers does not
   * exceed.
   */
  summary(): Summary {
    const sorted = [...this.#counts].sort(([a], [b]) => a - b);
    const quantile = (share: number): number => {
      let seen = 0;
      for (const [value, n] of sorted) {
        seen += n;
        if (seen >= share * this.#total) return value;
      }
      return 0;
    };
    const sum = sorted.reduce((total, [value, n]) => total + value * n, 0);
    return {
      least: sorted[0]?.[0] ?? 0,
      median: quantile(0.5),
      p95: quantile(0.95),
      most: sorted.at(-1)?.[0] ?? 0,
      mean: this.#total === 0 ? 0 : sum / this.#total,
    };
  }
}
