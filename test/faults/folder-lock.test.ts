import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';

const racers = 10;
const races = 20;
const script = fileURLToPath(new URL('../harness/lock-racer.mjs', import.meta.url));

interface Racer {
  say(line: string): void;
  hear(): Promise<string>;
  end(): void;
}

let root: string;
let all: Racer[];
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'spindle-race-'));
  all = Array.from({ length: racers }, race);
  for (const racer of all) expect(await racer.hear()).toBe('ready');
});
afterAll(() => {
  for (const racer of all) racer.end();
  rmSync(root, { recursive: true });
});

function race(): Racer {
  const child = spawn(process.execPath, [script], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    say: (line) => child.stdin.write(`${line}\n`),
    hear: async () => String((await lines.next()).value),
    end: () => child.kill(),
  };
}

/** How many of the processes hold the folder's lock, when all want it at once. */
async function holders(folder: string): Promise<number> {
  // All are told before it begins.
  const at = Date.now() + 50;
  for (const racer of all) racer.say(`${folder} ${at}`);
  const answers = await Promise.all(all.map((racer) => racer.hear()));
  expect(answers.filter((answer) => answer !== 'held' && answer !== 'refused')).toEqual([]);
  return answers.filter((answer) => answer === 'held').length;
}

it.each(['a folder without a lock', 'a lock whose holder is gone', 'one of another machine'])(
  `one of ${racers} processes at a time gets ${races} times: %s`,
  async (what) => {
    for (let n = 0; n < races; n++) {
      const folder = mkdtempSync(join(root, 'folder-'));
      const released = what === 'a lock whose holder is gone';
      const stale = { pid: 1, host: 'gone', started: '0', since: 'then', id: 'x', released };
      if (what !== 'a folder without a lock')
        writeFileSync(join(folder, 'gateway.lock.3'), JSON.stringify(stale));
      expect(await holders(folder)).toBe(1);
    }
  },
);
