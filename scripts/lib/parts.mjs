// Commands that do not depend on each other, side by side: each one's time, and what it printed
// where it failed.
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { root } from './phase.mjs';

/** Runs one command; resolves to its exit code and all that it printed. */
function runCommand([command, ...args]) {
  return new Promise((done) => {
    const child = spawn(command, args, { cwd: root });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text) => {
        output += text;
      });
    child.once('error', (error) => done({ exitCode: 1, output: `${output}${error.message}\n` }));
    child.once('close', (code) => done({ exitCode: code ?? 1, output }));
  });
}

/** Runs a part's commands in their order, up to the first that fails. */
async function runPart({ name, commands }) {
  const started = performance.now();
  let result = { exitCode: 0, output: '' };
  for (const command of commands) {
    result = await runCommand(command);
    if (result.exitCode !== 0) break;
  }
  const seconds = (performance.now() - started) / 1000;
  const ok = result.exitCode === 0;
  console.log(`${name}: ${ok ? '' : 'FAILED, '}${seconds.toFixed(1)} s`);
  if (!ok) process.stderr.write(`${result.output.trimEnd()}\n`);
  return { name, ok };
}

/** Runs parts, as many at a time as there are cores, the first ones first. */
export async function runParts(parts, workers = availableParallelism()) {
  const waiting = [...parts];
  const results = [];
  const work = async () => {
    for (let part = waiting.shift(); part !== undefined; part = waiting.shift())
      results.push(await runPart(part));
  };
  await Promise.all(Array.from({ length: Math.min(workers, parts.length) }, work));
  return results;
}
