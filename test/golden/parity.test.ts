import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cli } from '../harness/cli.js';
import { fixtures } from '../harness/files.js';

interface Line {
  fixture: string;
  kind: string;
  tensor: string;
  relL2: number;
  maxAbs: number;
  ok: boolean;
}

const names = readdirSync(fixtures, { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map((entry) => entry.name);
// Python's json writes -Infinity, which JSON has not.
const settings = (name: string) =>
  JSON.parse(
    readFileSync(join(fixtures, name, 'fixture.json'), 'utf8').replaceAll(
      /-?Infinity|NaN/g,
      'null',
    ),
  ) as {
    tolerance?: Record<string, object>;
  };

async function parity(
  name: string,
  precision: string,
): Promise<{
  failures: Line[];
  passed: number;
  failed: number;
  code: number | NodeJS.Signals;
  stderr: string;
}> {
  const { code, stdout, stderr } = await cli(
    ['parity', join(fixtures, name), '--precision', precision, '--json'],
    { timeoutMs: 600_000 },
  );
  const lines = stdout
    .trim()
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Line | { passed: number; failed: number });
  const summary = lines.pop() as { passed: number; failed: number } | undefined;
  return {
    failures: (lines as Line[]).filter((line) => !line.ok),
    passed: summary?.passed ?? 0,
    failed: summary?.failed ?? 0,
    code,
    stderr,
  };
}

describe.each(['float32', 'bfloat16'])('PyTorch, diffusers and transformers in %s', (precision) => {
  const replayed = names.filter(
    (name) => precision === 'float32' || settings(name).tolerance?.[precision] !== undefined,
  );

  it('there are fixtures to replay', () => expect(replayed.length).toBeGreaterThan(0));

  it.each(replayed)('%s', async (name) => {
    const { failures, passed, failed, code, stderr } = await parity(name, precision);
    expect(failures, stderr).toEqual([]);
    expect(failed).toBe(0);
    expect(passed, stderr).toBeGreaterThan(0);
    expect(code).toBe(0);
  });
});

it('a fixture that cannot be read ends with exit code 2', async () => {
  const { code, stderr } = await cli(['parity', join(fixtures, 'no-such-fixture'), '--json']);
  expect(stderr).toContain('no-such-fixture');
  expect(code).toBe(2);
});
