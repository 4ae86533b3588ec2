/**
 * A vocabulary of CLIP's form and any size: bytes, bytes at a word's end, merges, two special
 * tokens.
 */
import { byteToUnicode, endOfWord } from '../text/tokenizer.js';

const letters = 'abcdefghijklmnopqrstuvwxyz0123456789'.split('');
const specials = ['<|startoftext|>', '<|endoftext|>'];

/**
 * `size` entries; the merges are pairs of letters, then pairs and a letter, in alphabetical order.
 */
export function syntheticVocabulary(size: number): {
  vocab: Record<string, number>;
  merges: string[];
} {
  // CLIP's order: printable bytes first, so that "!" is 0.
  const bytes = [...byteToUnicode].sort((a, b) => (a < b ? -1 : 1));
  const tokens = [...bytes, ...bytes.map((byte) => byte + endOfWord)];
  const wanted = size - tokens.length - specials.length;
  if (wanted < 0)
    throw new RangeError(
      `vocabulary: expected a size of at least ${tokens.length + specials.length}, got ${size}`,
    );
  const merges: string[] = [];
  for (const [left, right] of candidates()) {
    if (merges.length === wanted) break;
    merges.push(`${left} ${right}`);
    tokens.push(left + right);
  }
  if (merges.length < wanted)
    throw new RangeError(
      `vocabulary: expected a size of at most ${tokens.length + specials.length}, got ${size}`,
    );
  tokens.push(...specials);
  return { vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges };
}

function* candidates(): Generator<[string, string]> {
  const ends = letters.flatMap((letter) => [letter, letter + endOfWord]);
  for (const a of letters) for (const b of ends) yield [a, b];
  for (const a of letters) for (const b of letters) for (const c of ends) yield [a + b, c];
}
