import type { JsonValue } from '../files/json.js';

/** A value of the kind of the supported ones, and none of them. */
export function oddValue(supported: readonly JsonValue[]): JsonValue {
  const [first] = supported.filter((value) => value !== null);
  switch (typeof first) {
    case 'boolean':
      return !first;
    case 'number':
      return Number.isFinite(first) ? first + 2 : -5.1;
    case 'string':
      return 'another';
    case 'object':
      return { another: 1 };
    default:
      return 16;
  }
}
