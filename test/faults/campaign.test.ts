import { expect, it } from 'vitest';
import { playCampaign, subjectConfigs } from './campaign/campaign.js';

/** Chosen so that the rounds are short; `npm run faults` has the long ones. */
const seed = 3;
const rounds = 2;

it('ends in the bytes of a calm run, whatever was done to files and processes', async () => {
  const { small } = subjectConfigs();
  const said: string[] = [];
  const { tally, failures } = await playCampaign([small], {
    seed,
    from: 0,
    count: rounds,
    isOver: () => false,
    stallMs: 240_000,
    only: ({ name }) => /^(kill|damage|wiped|pause)/.test(name),
    tell: (line) => said.push(line),
  });
  expect(failures, said.join('\n')).toEqual([]);
  const all = tally.rows().at(-1);
  expect(all?.tried, said.join('\n')).toBeGreaterThanOrEqual(rounds);
});
