/**
 * Fuzzes the targets of one module: `main.ts MODULE --failures DIR [--only NAME] [--seconds N]
 * [--executions N] [--seed N] [--keep FILE]`. One JSON line a target on stdout; exit code 1 where
 * one failed, whose input lies in DIR. --keep writes each input before it is read, for a process
 * that ends without a word.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { fuzz } from './loop.js';
import type { FuzzTarget } from './target.js';
import { Watchdog } from './watchdog.js';

const text = { type: 'string' } as const;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { failures: text, only: text, seconds: text, executions: text, seed: text, keep: text },
});
const [module = ''] = positionals;
const file = resolve(module);
const { targets } = (await import(pathToFileURL(file).href)) as { targets: readonly FuzzTarget[] };
const failures = resolve(values.failures ?? 'failures');
mkdirSync(failures, { recursive: true });

for (const target of targets) {
  if (values.only !== undefined && values.only !== target.name) continue;
  const watchdog = new Watchdog(join(failures, `${target.name}-stuck`));
  const { keep } = values;
  const result = await fuzz(target, {
    seed: Number(values.seed ?? 1),
    executions: Number(values.executions ?? Infinity),
    // They take their time: the few inputs among the tests are without.
    hostile: values.seconds !== undefined,
    seconds: Number(values.seconds ?? Infinity),
    corpus: corpusOf(join(dirname(file), 'corpus', target.name)),
    watchdog,
    ...(keep !== undefined && { before: (input: Buffer) => writeFileSync(keep, input) }),
  });
  await watchdog.stop();
  const { failure, ...counts } = result;
  const name = { target: target.name };
  if (!failure) {
    print({ ...name, ...counts });
    continue;
  }
  const digest = createHash('sha256').update(failure.input).digest('hex').slice(0, 12);
  const kept = join(failures, `${target.name}-${digest}`);
  writeFileSync(kept, failure.input);
  print({ ...name, ...counts, problem: failure.problem, input: kept });
  process.exitCode = 1;
}

function corpusOf(folder: string): Buffer[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .sort()
    .map((name) => readFileSync(join(folder, name)));
}

function print(line: object): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
