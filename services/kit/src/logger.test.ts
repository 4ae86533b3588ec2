import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { printable } from './printable.js';

function run(source: string): string {
  const code = `import { createLogger } from ${JSON.stringify(new URL('./logger.ts', import.meta.url).href)};\n${source}`;
  const { stderr, stdout } = spawnSync(
    process.execPath,
    ['--conditions=@spindle/source', '--import', 'tsx', '--input-type=module', '-e', code],
    { encoding: 'utf8' },
  );
  expect(stdout).toBe('');
  return stderr;
}

test('lines are JSON with name, level, time and the error with its cause', () => {
  const output = run(
    `const log = createLogger('trainer', { level: 'info' });
     log.debug('hidden');
     log.error({ err: new Error('outer', { cause: new Error('inner') }) }, 'failed');
     process.exit(3);`,
  );
  const line = JSON.parse(output) as Record<string, unknown>;
  expect(line).toMatchObject({
    name: 'trainer',
    level: 'error',
    msg: 'failed',
    err: { message: 'outer', cause: { message: 'inner' } },
  });
  expect(line['time']).toMatch(/^\d{4}-\d\d-\d\dT/);
});

test('pretty lines are for people', () => {
  expect(run(`createLogger('trainer', { pretty: true }).info('hello');`)).toMatch(
    /\[\d\d:\d\d:\d\d\] INFO \(trainer\): hello\n$/,
  );
});

test('pretty lines spell out what a terminal would obey', () => {
  const output = run(
    `const log = createLogger('trainer', { pretty: true });
     log.error({ err: new Error('\\u001b]0;pwned\\u0007\\u202e'), file: '\\u001b[2J' }, 'a\\u001bb\\u009bc');`,
  );
  expect(printable(output)).toBe(output);
  for (const spelled of ['a\\x1bb\\x9bc', '\\x1b]0;pwned\\x07\\u202e', '\\x1b[2J'])
    expect(output).toContain(spelled);
});
