/** Every text that differs from this one in a single bit of its UTF-8, as a reader gets it. */
export function* everyBitFlip(text: string): Generator<string> {
  const bytes = Buffer.from(text, 'utf8');
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const damaged = Buffer.from(bytes);
    damaged[bit >> 3] = damaged.readUInt8(bit >> 3) ^ (1 << (bit & 7));
    yield damaged.toString('utf8');
  }
}
