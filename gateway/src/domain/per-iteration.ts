/** The value for iteration k (from 1); a list's last value repeats. */
export function forIteration<T extends string | number>(value: T | readonly T[], k: number): T {
  if (typeof value === 'string' || typeof value === 'number') return value;
  const chosen = value[Math.min(k, value.length) - 1];
  if (chosen === undefined) throw new RangeError('a list with one value per iteration is empty');
  return chosen;
}
