import { describe, expect, it } from 'vitest';
import { isaOf, markdownTable, median, parseResult, ratios, summarise } from './bench-results.mjs';

const run = (seconds, peakMib = 100) => ({ program: 'spindle 0.1.0 avx2', seconds, peakMib });
const task = {
  task: 'spin_step',
  model: 'examples/scenes/tiny-sd',
  batch: 32,
  precision: 'bfloat16',
};
const record = (spindle, peer) => ({ ...task, spindle, peer, ...ratios(spindle, peer) });

describe('medians of a benchmark', () => {
  it('takes the middle one, or the mean of the middle two', () => {
    expect(median([5, 1, 100])).toBe(5);
    expect(median([4, 1, 2, 100])).toBe(3);
  });

  it('takes the median of the times and the highest of the peaks', () => {
    expect(summarise('spindle-bench', [run(3, 100), run(1, 120), run(2, 110)])).toEqual({
      program: 'spindle 0.1.0 avx2',
      command: 'spindle-bench',
      seconds: [3, 1, 2],
      seconds_median: 2,
      peak_mib: 120,
    });
  });

  it('has no figure for a program that failed once', () => {
    expect(summarise('python bench.py', [run(3), { failed: 'SIGKILL' }])).toEqual({
      command: 'python bench.py',
      failed: 'SIGKILL',
    });
  });
});

describe('the result of a program', () => {
  it('is its last object, whatever a library says around it', () => {
    const line = '{"peer":"torch 2","seconds_median":0.5,"seconds_min":0.4,"peak_mib":12}';
    expect(parseResult(`a warning\n{"other":1}\n${line}\ngoodbye\n`)).toEqual({
      program: 'torch 2',
      seconds: 0.5,
      peakMib: 12,
    });
  });

  it('is missing when nothing has its keys', () => {
    expect(() => parseResult('{"other":1}\n')).toThrow('it printed no result');
  });

  it('says which instruction set was used', () => {
    expect(isaOf('spindle 0.1.0 avx512_bf16')).toBe('avx512_bf16');
  });
});

describe('ratios to the peer', () => {
  const spindle = summarise('s', [run(0.5, 300)]);

  it('are above 1 where Spindle is faster, and below 1 where it needs less memory', () => {
    expect(ratios(spindle, summarise('p', [run(1.5, 600)]))).toEqual({
      speed_ratio: 3,
      memory_ratio: 0.5,
    });
  });

  it('are none when there is no peer or one side failed', () => {
    const none = { speed_ratio: null, memory_ratio: null };
    const failed = { command: 'p', failed: 'SIGKILL' };
    expect(ratios(spindle, null)).toEqual(none);
    expect(ratios(spindle, failed)).toEqual(none);
    expect(ratios(failed, spindle)).toEqual(none);
  });
});

describe('the table', () => {
  const spindle = summarise('s', [run(0.51234, 1611.4)]);

  it('shows both sides and their ratios', () => {
    expect(markdownTable([record(spindle, summarise('p', [run(1.58, 2385)]))]).split('\n')).toEqual(
      [
        '| task | Spindle, s | peer, s | peer / Spindle | Spindle, peak MiB | peer, peak MiB | Spindle / peer |',
        '| --- | ---: | ---: | ---: | ---: | ---: | ---: |',
        '| spin_step tiny-sd b32 bfloat16 | 0.512 | 1.58 | 3.08× | 1,611 | 2,385 | 0.68× |',
      ],
    );
  });

  it("has only Spindle's columns without a peer", () => {
    expect(markdownTable([record(spindle, null)]).split('\n')).toEqual([
      '| task | Spindle, s | Spindle, peak MiB |',
      '| --- | ---: | ---: |',
      '| spin_step tiny-sd b32 bfloat16 | 0.512 | 1,611 |',
    ]);
  });

  it('says why a side has no figure', () => {
    const table = markdownTable([record(spindle, { command: 'p', failed: 'SIGKILL' })]);
    expect(table).toContain('| 0.512 | failed: SIGKILL | – | 1,611 | – | – |');
  });
});
