/**
 * Byte-pair merges of one word: always the merge of the lowest rank, the leftmost of equal ones, as
 * Hugging Face's tokenizers do. A heap holds the merges that may come next, so that a word of n
 * symbols takes about n log n steps.
 */

/** What is left of `symbols` when no two neighbours have a rank; ranks are of "first second". */
export function mergePairs(
  symbols: readonly string[],
  ranks: ReadonlyMap<string, number>,
): string[] {
  const parts: (string | undefined)[] = [...symbols];
  const { length } = parts;
  const next = Array.from(parts, (_, at) => at + 1);
  const previous = Array.from(parts, (_, at) => at - 1);
  const rankAt = (at: number): number | undefined => {
    const right = parts[next[at] ?? length];
    return right === undefined ? undefined : ranks.get(`${parts[at] ?? ''} ${right}`);
  };
  const heap = new MinHeap();
  const consider = (at: number): void => {
    const rank = rankAt(at);
    if (rank !== undefined) heap.push(rank * length + at);
  };
  for (let at = 0; at + 1 < length; at++) consider(at);
  for (let least = heap.pop(); least !== undefined; least = heap.pop()) {
    const at = least % length;
    // A neighbour may have been merged since.
    if (parts[at] === undefined || rankAt(at) !== (least - at) / length) continue;
    const right = next[at] ?? length;
    const behind = next[right] ?? length;
    parts[at] = `${parts[at]}${parts[right] ?? ''}`;
    parts[right] = undefined;
    next[at] = behind;
    if (behind < length) previous[behind] = at;
    consider(at);
    const before = previous[at] ?? -1;
    if (before >= 0) consider(before);
  }
  return parts.filter((part) => part !== undefined);
}

/** A binary heap of numbers. */
class MinHeap {
  readonly #items: number[] = [];

  push(value: number): void {
    const items = this.#items;
    let at = items.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = items[parent] ?? 0;
      if (above <= value) break;
      items[at] = above;
      at = parent;
    }
    items[at] = value;
  }

  pop(): number | undefined {
    const items = this.#items;
    const least = items[0];
    const last = items.pop();
    if (last === undefined || items.length === 0) return least;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if ((items[child + 1] ?? Infinity) < (items[child] ?? 0)) child++;
      const below = items[child] ?? 0;
      if (below >= last) break;
      items[at] = below;
      at = child;
    }
    items[at] = last;
    return least;
  }
}
