import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { root } from '../harness/child.js';

const loop = join(root, 'services/kit/src/testing/fuzz/main.ts');

/** The same inputs every time; `npm run fuzz` tries others for longer. */
it.each(['services/kit', 'services/data', 'services/models', 'gateway'])(
  'reads or refuses every changed input: %s',
  async (folder) => {
    const failures = await mkdtemp(join(tmpdir(), 'spindle-fuzz-'));
    const targets = join(root, folder, 'src/testing/fuzz/targets.ts');
    const args = ['--conditions=@spindle/source', '--import', 'tsx', loop, targets];
    args.push('--failures', failures, '--executions', '200', '--seed', '1');
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: root });
    const lines = stdout.trim().split('\n');
    for (const line of lines) {
      const told = JSON.parse(line) as { executions: number; problem?: string };
      expect(told.problem).toBeUndefined();
      expect(told.executions).toBeGreaterThanOrEqual(200);
    }
    expect(await readdir(failures)).toEqual([]);
    await rm(failures, { recursive: true });
  },
);
