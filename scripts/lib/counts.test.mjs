import { describe, expect, it } from 'vitest';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ctestCounts, cudaCounts, summarise, vitestCounts } from './counts.mjs';

const ctest = (lines) => ctestCounts(lines.join('\n'));

describe('counting tests', () => {
  it('sums what the programs under ctest report', () => {
    const output = [
      '1: 12 passed, 0 failed',
      '1/2 Test #1: core_test ........   Passed    0.02 sec',
      '2: 3 passed, 2 failed',
      '2/2 Test #2: op_test .......***Failed    0.10 sec',
    ];
    expect(ctest(output)).toEqual({ passed: 15, failed: 2 });
  });

  it('counts a program that crashed before its closing line as one failure', () => {
    expect(ctest(['1/1 Test #1: core_test ........***Exception: SegFault  0.02 sec'])).toEqual({
      passed: 0,
      failed: 1,
    });
  });

  it('counts a program that failed after a good closing line as one failure', () => {
    expect(
      ctest(['1: 4 passed, 0 failed', '1/1 Test #1: core_test ........***Failed    0.02 sec']),
    ).toEqual({ passed: 4, failed: 1 });
  });

  it('counts CUDA sources as checked only when the backend was built', () => {
    const folder = mkdtempSync(join(tmpdir(), 'spindle-counts-'));
    try {
      const kernels = join(folder, 'engine/kernels/cuda');
      for (const place of ['library', 'plans'])
        mkdirSync(join(kernels, place), { recursive: true });
      for (const name of ['a.cu', 'a.h', 'b.cc', 'library/c.cc', 'plans/d.cc'])
        writeFileSync(join(kernels, name), '');
      expect(cudaCounts(folder, folder)).toEqual({ sources: 3, built: false });
      writeFileSync(join(folder, 'spindle_cuda.so'), '');
      expect(cudaCounts(folder, folder)).toEqual({ sources: 3, built: true });
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('counts a file that vitest could not load as one failure', () => {
    const report = {
      numPassedTests: 5,
      numFailedTests: 1,
      testResults: [
        { status: 'failed', assertionResults: [{ status: 'failed' }] },
        { status: 'failed', assertionResults: [] },
        { status: 'passed', assertionResults: [{ status: 'passed' }] },
      ],
    };
    expect(vitestCounts(report)).toEqual({ passed: 5, failed: 2 });
  });

  it('is not content with a runner that ran nothing', () => {
    const { line, ok, problems } = summarise([
      { name: 'ctest', exitCode: 0, passed: 0, failed: 0 },
      { name: 'vitest', exitCode: 0, passed: 7, failed: 0 },
    ]);
    expect({ line, ok, problems }).toEqual({
      line: '7 passed, 1 failed',
      ok: false,
      problems: ['ctest ran no test'],
    });
  });

  it('is not content with a runner that failed without a failing test', () => {
    expect(summarise([{ name: 'vitest', exitCode: 1, passed: 7, failed: 0 }])).toMatchObject({
      ok: false,
      line: '7 passed, 1 failed',
    });
  });

  it('gives one closing line', () => {
    const runners = [
      { name: 'ctest', exitCode: 0, passed: 3, failed: 0 },
      { name: 'vitest', exitCode: 0, passed: 7, failed: 0 },
    ];
    expect(summarise(runners)).toEqual({ line: '10 passed, 0 failed', problems: [], ok: true });
  });
});
