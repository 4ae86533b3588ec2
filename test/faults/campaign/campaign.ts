/** Rounds one after another, on a mesh that is renewed now and then. */
import { tinyConfig } from '../../harness/config.js';
import { attacks, playRound, type Round, type RoundOptions } from './round.js';
import { Tally } from './tally.js';
import { World, type Subject } from './world.js';

/** So that trouble which a round leaves behind is its own. */
const roundsOfMesh = 12;

export interface CampaignOptions {
  seed: number;
  /** The first round, and how many there are at most. */
  from: number;
  count: number;
  /** Asked before each round. */
  isOver(): boolean;
  stallMs: number;
  only?: RoundOptions['only'];
  tell(line: string): void;
}

export interface Failure extends Round {
  round: number;
  logs: string;
}

export interface CampaignResult {
  rounds: number;
  tally: Tally;
  /** Rounds that were silent. */
  failures: Failure[];
  /** Rounds after which plots lack steps. */
  gaps: number;
  /** What could not be tried here, and what it needs. */
  skipped: string[];
}

/** The tiny run with everything in it, and a short one with adapters and an average. */
export function subjectConfigs() {
  const full = tinyConfig();
  const lora = { rank: 2 };
  const small = {
    ...full,
    iterations: 1,
    baselines: {},
    train: { ...full.train, lora, ema_decay: 0.9 },
    sampling: { ...full.sampling, ema: true },
  };
  return { full, small };
}

export async function playCampaign(
  configs: readonly Subject['config'][],
  options: CampaignOptions,
): Promise<CampaignResult> {
  const { tell } = options;
  const result: CampaignResult = {
    rounds: 0,
    tally: new Tally(),
    failures: [],
    gaps: 0,
    skipped: [],
  };
  const subjects: Subject[] = [];
  const last = options.from + options.count;
  for (let round = options.from; round < last; ) {
    const world = await World.open();
    try {
      if (subjects.length === 0) {
        subjects.push(...(await calmRuns(world, configs, tell)));
        await world.clear();
      }
      if (result.skipped.length === 0) result.skipped.push(...skippedIn(world));
      const until = Math.min(last, round + roundsOfMesh);
      for (let isSound = true; isSound && round < until; round++) {
        if (options.isOver()) return result;
        isSound = await playOne(world, subjects, { ...options, round }, result);
      }
    } finally {
      await world.close();
    }
  }
  return result;
}

async function calmRuns(
  world: World,
  configs: readonly Subject['config'][],
  tell: (line: string) => void,
): Promise<Subject[]> {
  const subjects: Subject[] = [];
  for (const [at, config] of configs.entries()) {
    const began = performance.now();
    const subject = await world.calm(config, `calm-${at}`);
    subjects.push(subject);
    const files = Object.keys(subject.calm.files).length;
    tell(`calm run ${at}: ${files} files, ${seconds(began)}`);
  }
  return subjects;
}

/** False where the mesh is of no more use. */
async function playOne(
  world: World,
  subjects: readonly Subject[],
  options: CampaignOptions & { round: number },
  result: CampaignResult,
): Promise<boolean> {
  const { round, tell } = options;
  const began = performance.now();
  const played = await playRound(world, subjects, options);
  const { outcome, struck, reasons, missingSteps } = played;
  result.rounds++;
  for (const one of struck) result.tally.add(one.fault, one.outcome);
  if (missingSteps.length > 0) result.gaps++;
  const faults = struck.map(({ fault }) => fault).join(', ') || 'nothing was met';
  const gap = missingSteps.length > 0 ? `; plots lack ${missingSteps.join(', ')}` : '';
  tell(`round ${round}: ${outcome} (${faults}), ${seconds(began)}${gap}`);
  if (outcome !== 'silent') return true;
  for (const reason of reasons) tell(`  ${reason}`);
  for (const line of played.story) tell(`  - ${line}`);
  result.failures.push({ ...played, round, logs: world.logs() });
  return false;
}

function skippedIn(world: World): string[] {
  return attacks.flatMap((attack) => {
    const lacks = attack.lacks(world);
    return lacks === '' ? [] : [`${attack.name} needs ${lacks}`];
  });
}

function seconds(began: number): string {
  return `${((performance.now() - began) / 1000).toFixed(1)} s`;
}
