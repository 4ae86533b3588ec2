import { expect, it } from 'vitest';
import { playCampaign, subjectConfigs } from './campaign/campaign.js';

/** `npm run faults` has the long ones. */
const seed = 3;
const mostRounds = 4;
/** No round begins later; the first one always does. */
const enoughMs = 20_000;

it('ends in the bytes of a calm run, whatever was done to files and processes', async () => {
  const { small } = subjectConfigs();
  const said: string[] = [];
  const began = performance.now();
  const isRound = (line: string): boolean => line.startsWith('round ');
  const { tally, failures } = await playCampaign([small], {
    seed,
    from: 0,
    count: mostRounds,
    isOver: () => said.some(isRound) && performance.now() - began > enoughMs,
    stallMs: 240_000,
    only: ({ name }) => /^(kill|damage|wiped|pause)/.test(name),
    tell: (line) => said.push(line),
  });
  expect(failures, said.join('\n')).toEqual([]);
  expect(tally.rows().at(-1)?.tried, said.join('\n')).toBeGreaterThan(0);
});
