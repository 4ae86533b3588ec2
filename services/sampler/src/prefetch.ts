/**
 * Results of `work` in the order of the items, with up to `depth` of them under way: reading
 * overlaps computing.
 */
export async function* prefetch<T, R>(
  items: Iterable<T>,
  depth: number,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R, undefined> {
  const underWay: Promise<R>[] = [];
  const source = items[Symbol.iterator]();
  const begin = (): void => {
    const next = source.next();
    if (next.done) return;
    const result = work(next.value);
    // Whoever comes to it sees the failure; one that nobody comes to any more has no one to tell.
    result.catch(() => undefined);
    underWay.push(result);
  };
  while (underWay.length < depth) {
    const before = underWay.length;
    begin();
    if (underWay.length === before) break;
  }
  for (let first = underWay.shift(); first !== undefined; first = underWay.shift()) {
    const result = await first;
    begin();
    yield result;
  }
}
