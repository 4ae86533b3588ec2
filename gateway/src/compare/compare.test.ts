import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { comparisonText } from '../cli/commands/compare.js';
import { compareRuns } from './compare-runs.js';
import { readRunFiles } from './run-files.js';

const folder = await mkdtemp(join(tmpdir(), 'spindle-compare-'));
afterAll(() => rm(folder, { recursive: true, force: true }));

const judge = (digest = 'sha256:1') => ({
  kind: 'pickscore',
  files: [{ name: 'w', digest }],
  variant: 'v1',
  scale: '100 · cosine',
  preprocess: 't',
});

/** A run's folder; scores of "spin1" per prompt p0, p1, … each of the seed given. */
async function run(
  id: string,
  scores: number[],
  more: { digest?: string; beta?: number; seed?: string; metric?: string } = {},
) {
  const directory = join(folder, id);
  await mkdir(directory);
  const metric = more.metric ?? 'pick';
  const report = {
    run_id: id,
    best_model: 'spin1',
    models: [{ name: 'base' }, { name: 'spin1' }],
    judges: { [metric]: judge(more.digest) },
    config: { objective: { beta: more.beta ?? 2000 }, seed: 0 },
  };
  await writeFile(join(directory, 'report.json'), JSON.stringify(report));
  const lines = scores.map(
    (value, i) =>
      `{"model":"spin1","prompt_index":${i},"prompt":"p${i}","category":"${i % 2 ? 'photo' : 'anime'}","seed":${more.seed ?? '18446744073709551615'},"scores":{"${metric}":${value}}}\n`,
  );
  await writeFile(join(directory, 'scores.jsonl'), lines.join(''));
  return readRunFiles(directory, id);
}

const values = Array.from({ length: 20 }, (_, i) => 20 + (i % 5) / 4);

describe('a comparison of runs', () => {
  it('pairs by prompt and seed, and says what differs', async () => {
    const a = await run('first', values);
    const b = await run(
      'second',
      values.slice(0, 16).map((value) => value + 0.5),
      { beta: 5000 },
    );
    const comparison = compareRuns(a, b);
    expect(comparison).toMatchObject({
      a: { run: 'first', model: 'spin1' },
      ...{ paired: 16, only_a: 4, only_b: 0, skipped: [] },
      settings: [{ key: 'objective.beta', before: 2000, after: 5000 }],
    });
    const [all, anime] = comparison.metrics;
    expect(all).toMatchObject({
      metric: 'pick',
      category: '',
      b_against_a: { difference: 0.5, winRate: 1, verdict: 'better', n: 16 },
      best_of: null,
    });
    expect(all!.b.mean - all!.a.mean).toBeCloseTo(0.5);
    expect(anime).toMatchObject({ category: 'anime', b_against_a: { n: 8 } });
    const text = comparisonText(comparison).join('\n');
    expect(text).toContain(
      '16 images of the same prompt and seed; 4 of A and 0 of B have no counterpart',
    );
    expect(text).toMatch(
      /pick +\S+ +\S+ +\+0\.500 \(\+0\.500 to \+0\.500\) +100\.0 % .* better \(p < 0\.001\) +16/,
    );
    expect(text).toContain('  objective.beta: 2000 → 5000');
  });

  it('compares no scores of other judges or other names', async () => {
    const a = await run('third', values);
    const other = compareRuns(a, await run('fourth', values, { digest: 'sha256:2' }));
    expect(other.metrics).toEqual([]);
    expect(other.skipped).toEqual([
      {
        metric: 'pick',
        reason: expect.stringMatching(/other judges: .*sha256:1 and .*sha256:2/) as string,
      },
    ]);
    expect(compareRuns(a, await run('fifth', values, { metric: 'reward' })).skipped).toEqual([
      { metric: 'pick', reason: 'fifth has no such metric' },
      { metric: 'reward', reason: 'third has no such metric' },
    ]);
  });

  it('refuses runs without a common image, unknown models and missing files in one sentence', async () => {
    const a = await run('sixth', values);
    const b = await run('seventh', values, { seed: '18446744073709551614' });
    expect(() => compareRuns(a, b)).toThrow(
      'expected a prompt and seed that both were judged on, got none',
    );
    expect(() => compareRuns(a, a, { a: 'spin9' })).toThrow(
      '--model-a: expected a model of run sixth (spin1), got "spin9"',
    );
    await expect(readRunFiles(join(folder, 'none'), 'none')).rejects.toThrow(
      /run "none": expected .*report\.json, got no such file/,
    );
    expect(comparisonText(compareRuns(a, a))).toContain('The settings are the same.');
  });
});
