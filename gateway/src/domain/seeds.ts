/**
 * Seeds are hashes of what an image is, so that an image depends on nothing else: not on the
 * worker, the shard or the order. FNV-1a over the words, then splitmix64's finaliser; the low 32
 * bits, which is what PyTorch's generator keeps of a seed.
 */
const mask64 = (1n << 64n) - 1n;

export function imageSeed(runSeed: number, stage: string, index: number, copy = 0): bigint {
  return mix(fnv1a(`${runSeed}/${stage}/${index}/${copy}`)) & 0xffff_ffffn;
}

/** A number in [0, bound) that is a pure function of the run's seed and what it is for. */
export function draw(runSeed: number, what: string, index: number, bound: number): number {
  return Number(imageSeed(runSeed, what, index) % BigInt(bound));
}

function fnv1a(text: string): bigint {
  let hash = 0xcbf2_9ce4_8422_2325n;
  for (let i = 0; i < text.length; i++) {
    hash = ((hash ^ BigInt(text.charCodeAt(i))) * 0x100_0000_01b3n) & mask64;
  }
  return hash;
}

function mix(value: bigint): bigint {
  let z = (value + 0x9e37_79b9_7f4a_7c15n) & mask64;
  z = ((z ^ (z >> 30n)) * 0xbf58_476d_1ce4_e5b9n) & mask64;
  z = ((z ^ (z >> 27n)) * 0x94d0_49bb_1331_11ebn) & mask64;
  return z ^ (z >> 31n);
}
