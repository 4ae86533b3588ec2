import { describe, expect, it } from 'vitest';
import {
  caseName,
  cases,
  peerArguments,
  peerEnvironment,
  shownCommand,
  spindleArguments,
} from './bench-cases.mjs';

const settings = {
  isa: 'avx2',
  threads: 2,
  repeat: 1,
  warmup: 1,
  peerScript: '/some/where/peer.py',
};
const sample = { task: 'sample', model: 'small', batch: 1, steps: 20, precision: 'bfloat16' };

describe('tasks of the benchmark', () => {
  it('have names of their own', () => {
    const names = cases.map(caseName);
    expect(new Set(names).size).toBe(names.length);
    expect(names).toContain('spin_step tiny-sd b32 float32');
  });

  it('ask both programs for the same work', () => {
    const ours = spindleArguments(sample, settings).join(' ');
    const theirs = peerArguments(sample, settings).join(' ');
    for (const flags of [
      '--task sample --model small --batch 1 --steps 20',
      '--threads 2 --repeat 1 --warmup 1',
    ]) {
      expect(ours).toContain(flags);
      expect(theirs).toContain(flags);
    }
    expect(ours).toContain('--precision bfloat16 --isa avx2 --json');
    expect(theirs).toContain('--dtype bfloat16');
  });

  it('hold the peer to the same instruction set', () => {
    expect(peerEnvironment('avx2')).toEqual({
      ATEN_CPU_CAPABILITY: 'avx2',
      ONEDNN_MAX_CPU_ISA: 'AVX2',
    });
    expect(peerEnvironment('auto')).toEqual({});
  });

  it('are written down without the places of this machine', () => {
    expect(
      shownCommand('/some/venv/bin/python', ['/some/where/peer.py', '--task', 'sample'], {
        A: '1',
      }),
    ).toBe('A=1 python peer.py --task sample');
  });
});
