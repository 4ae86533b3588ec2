/**
 * Philox 4x32-10 (Salmon et al., 2011): four random words that are a pure function of key and
 * counter. A draw named by what it is for (seed, iteration, epoch, position) is the same after a
 * resume and in any order.
 */
export type Words = readonly [number, number, number, number];

const multiplierA = 0xd2511f53;
const multiplierB = 0xcd9e8d57;
const weylA = 0x9e3779b9;
const weylB = 0xbb67ae85;
const rounds = 10;

/** Philox 4x32-10 (Salmon et al., 2011): four random words of a seed and a counter. */
export function philox(seed: bigint, counter: Words): Words {
  let keyA = Number(seed & 0xffffffffn);
  let keyB = Number((seed >> 32n) & 0xffffffffn);
  let [a, b, c, d] = counter;
  for (let round = 0; round < rounds; round++) {
    const [highA, lowA] = multiply(multiplierA, a);
    const [highB, lowB] = multiply(multiplierB, c);
    [a, b, c, d] = [(highB ^ b ^ keyA) >>> 0, lowB, (highA ^ d ^ keyB) >>> 0, lowA];
    keyA = (keyA + weylA) >>> 0;
    keyB = (keyB + weylB) >>> 0;
  }
  return [a, b, c, d];
}

/** High and low word of a 32-bit product, by 16-bit halves. */
function multiply(x: number, y: number): [number, number] {
  const [xh, xl, yh, yl] = [x >>> 16, x & 0xffff, y >>> 16, y & 0xffff];
  const low = xl * yl;
  const middle = xh * yl + (low >>> 16);
  const cross = xl * yh + (middle % 0x10000);
  const high = xh * yh + Math.floor(middle / 0x10000) + Math.floor(cross / 0x10000);
  return [high >>> 0, Math.imul(x, y) >>> 0];
}

/** 53 random bits in [0, 1). */
export function uniform(high: number, low: number): number {
  return ((high >>> 5) * 0x4000000 + (low >>> 6)) / 0x20000000000000;
}

/** Two independent standard normal numbers (Box-Muller); the first uniform is moved into (0, 1]. */
export function normals([a, b, c, d]: Words): [number, number] {
  const radius = Math.sqrt(-2 * Math.log(1 - uniform(a, b)));
  const angle = 2 * Math.PI * uniform(c, d);
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}
