import { describe, expect, it } from 'vitest';
import { dictPickle, op, pickle, tensorPickle } from '../testing/torch-archives.js';
import { PickleDict } from './pickle-values.js';
import { readPickle } from './pickle.js';

describe('what a small file makes is bounded', () => {
  const times = (count: number, part: Buffer): Buffer =>
    Buffer.concat(Array<Buffer>(count).fill(part));
  const call = (callee: Buffer, ...args: Buffer[]): Buffer =>
    Buffer.concat([callee, op.mark, ...args, op.tuple, op.reduce]);
  /** What `first` makes, and an item for it: a list of `count` times what `part` makes. */
  const listOf = (count: number, part: Buffer, ...first: Buffer[]): Buffer =>
    Buffer.concat([...first, op.emptyList, op.mark, times(count, part), op.appends, op.setItem]);
  const numbers = Buffer.concat([op.emptyList, op.mark, times(100_000, op.int(1)), op.appends]);
  const tooMuch = new RegExp(
    '^data\\.pkl, byte \\d+: expected a pickle that makes at most 64 times its own bytes ' +
      'and 64 MiB, got one that makes more$',
  );

  it.each<[string, Buffer]>([
    [
      'one string encoded again and again',
      listOf(
        2_000,
        call(op.get(2), op.get(1), op.get(3)),
        ...[op.text('x'.repeat(1 << 20)), op.put(1), op.global('_codecs', 'encode'), op.put(2)],
        ...[op.text('latin1'), op.put(3), op.emptyDict, op.none],
      ),
    ],
    [
      'one list copied into dictionaries',
      listOf(
        5_000,
        call(op.get(2), op.get(1)),
        ...[op.global('collections', 'OrderedDict'), op.put(2), op.emptyList, op.mark],
        ...Array.from({ length: 5_000 }, (_, i) =>
          Buffer.concat([op.mark, op.int(i), op.none, op.tuple]),
        ),
        ...[op.appends, op.put(1), op.emptyDict, op.none],
      ),
    ],
    [
      'one list taken for a size again and again',
      listOf(
        100_000,
        call(op.get(2), op.get(1)),
        ...[op.global('torch', 'Size'), op.put(2), numbers, op.put(1), op.emptyDict, op.none],
      ),
    ],
    [
      'two strings joined into a name again and again',
      listOf(
        100_000,
        Buffer.concat([op.get(1), op.get(1), Buffer.from([0x93])]),
        ...[op.text('x'.repeat(1 << 16)), op.put(1), op.emptyDict, op.none],
      ),
    ],
    ['a million empty dictionaries', listOf(1_000_000, op.emptyDict, op.emptyDict, op.none)],
  ])('%s', (_name, body) => {
    const before = process.memoryUsage().rss;
    expect(() => readPickle(pickle(body), 0, 'data.pkl')).toThrow(tooMuch);
    expect(process.memoryUsage().rss - before).toBeLessThan(512 << 20);
  });

  it('and is enough for a state dict of 20,000 tensors, and for lists of a million', () => {
    const one = tensorPickle({
      ...{ name: 'w', type: 'FloatStorage', key: '0', elements: 6, offset: 0 },
      ...{ shape: [2, 3], stride: [3, 1] },
    });
    const body = dictPickle([
      ...Array.from({ length: 20_000 }, (_, i) => [`blocks.${i}.weight`, one] as const),
      ['epochs', Buffer.concat([op.emptyList, op.mark, times(1_000_000, op.none), op.appends])],
    ]);
    const { value, storages } = readPickle(pickle(body), 0, 'data.pkl');
    expect(value instanceof PickleDict && value.entries.size).toBe(20_001);
    expect(storages).toHaveLength(20_000);
  });
});
