/** `npm run faults`: as many rounds as there is time for, a table, and the exit code. */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from '../../harness/child.js';
import { playCampaign, subjectConfigs, type CampaignResult } from './campaign.js';
import { tableOf } from './tally.js';

const help = `usage: npm run faults -- [options]
  --minutes N      no round begins later; default 10
  --seed N         what follows from it: faults, victims, moments, bits; default: by the clock
  --round N        this round alone, as it was in a campaign of that seed
  --only WORD      only attacks whose name has the word
  --stall SECONDS  how long nothing may move before a run counts as hanging; default 240
  --out FILE       the table and the failures as JSON
  --help           this text`;

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    round: { type: 'string' },
    only: { type: 'string' },
    stall: { type: 'string', default: '240' },
    out: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});

const say = (line: string): void => void process.stdout.write(`${line}\n`);

function numberOf(name: string, text: string): number {
  const value = Number(text);
  if (Number.isFinite(value) && value >= 0) return value;
  throw new Error(`--${name}: expected a number, got ${text}`);
}

if (values.help) say(help);
else process.exitCode = await main();

async function main(): Promise<number> {
  const seed = numberOf('seed', values.seed);
  const minutes = numberOf('minutes', values.minutes);
  const round = values.round === undefined ? undefined : numberOf('round', values.round);
  const { only } = values;
  say(`seed ${seed}`);
  let isToldToEnd = false;
  // The round at hand is finished first: its processes and its file system have to go.
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => {
      isToldToEnd = true;
      say('this round is the last one');
    });
  const began = performance.now();
  const { full, small } = subjectConfigs();
  const result = await playCampaign([full, small], {
    seed,
    from: round ?? 0,
    count: round === undefined ? Infinity : 1,
    isOver: () =>
      isToldToEnd || (round === undefined && performance.now() - began > minutes * 60_000),
    stallMs: numberOf('stall', values.stall) * 1_000,
    ...(only !== undefined && {
      only: ({ name, when }) => when === 'during' && name.includes(only),
    }),
    tell: say,
  });
  const ranMinutes = (performance.now() - began) / 60_000;
  say(`\n${tableOf(result.tally.rows())}\n`);
  say(`${result.rounds} rounds in ${ranMinutes.toFixed(1)} minutes, seed ${seed}`);
  say(`rounds after which plots lack a step: ${result.gaps}`);
  for (const skipped of result.skipped) say(`not tried: ${skipped}`);
  await keep(result, { seed, minutes: ranMinutes });
  for (const failure of result.failures)
    say(`silent: npm run faults -- --seed ${seed} --round ${failure.round}`);
  return result.failures.length === 0 ? 0 : 1;
}

/** Logs of what went wrong lie beside the build; the rest goes where it was asked for. */
async function keep(
  { rounds, tally, failures, gaps, skipped }: CampaignResult,
  about: { seed: number; minutes: number },
): Promise<void> {
  for (const { round, logs, story, reasons } of failures) {
    const file = join(root, '.cache/faults', `seed-${about.seed}-round-${round}.log`);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, [...reasons, ...story, logs].join('\n'));
    say(`logs of round ${round}: ${file}`);
  }
  if (values.out === undefined) return;
  const file = resolve(process.env['INIT_CWD'] ?? '.', values.out);
  const kept = failures.map(({ logs: _, ...failure }) => failure);
  const json = { ...about, rounds, rows: tally.rows(), gaps, skipped, failures: kept };
  await writeFile(file, `${JSON.stringify(json, null, 2)}\n`);
}
