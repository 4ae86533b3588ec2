/** One round: a run, trouble, and what came of it. */
import type { Attack, Struck } from './attack.js';
import { fileAttacks } from './file-attacks.js';
import { processAttacks } from './process-attacks.js';
import { Random } from './random.js';
import { difference, readRunFiles } from './run-files.js';
import { Scene, Silent, Unreadable } from './scene.js';
import type { Outcome } from './tally.js';
import { userAttacks } from './user-attacks.js';
import type { Subject, World } from './world.js';

export const attacks: readonly Attack[] = [...processAttacks, ...fileAttacks, ...userAttacks];

const attacksOfRound = [2, 5] as const;

export interface Round {
  /** A fault is detected where something was told before the next fault came. */
  struck: (Struck & { outcome: Outcome })[];
  outcome: Outcome;
  /** Why it was silent; steps that plots lack. */
  reasons: string[];
  missingSteps: string[];
  story: string[];
}

export interface RoundOptions {
  seed: number;
  round: number;
  /** How long nothing may move before the run counts as hanging. */
  stallMs: number;
  /** Which attacks may be drawn; all without. */
  only?: ((attack: Attack) => boolean) | undefined;
}

export async function playRound(
  world: World,
  subjects: readonly Subject[],
  { seed, round, stallMs, only = () => true }: RoundOptions,
): Promise<Round> {
  const random = new Random(`seed ${seed}, round ${round}`);
  const subject = random.pick(subjects);
  if (subject === undefined) throw new Error('expected a run to disturb, got none');
  const possible = attacks.filter((attack) => only(attack) && attack.lacks(world) === '');
  const drawn = draw(possible, random);
  const moments = drawn.map(() => random.next()).sort((a, b) => a - b);
  const scene = new Scene(world, subject, random, { runId: `round-${round}`, stallMs });
  const strikes: Strike[] = [];
  const strike = async (attack: Attack): Promise<void> => {
    scene.note(`${attack.name}, at ${await scene.progress()} of ${subject.length}`);
    const one = { struck: [] as Struck[], toldBefore: scene.told.length };
    strikes.push(one);
    try {
      one.struck = await attack.strike(scene);
    } catch (thrown) {
      if (!(thrown instanceof Unreadable)) throw thrown;
      // What is wrong was said; the next look at the runs tells it and takes the backup.
      scene.note(`${attack.name} ended before its time: ${thrown.message}`);
    }
    for (const { what } of one.struck) scene.note(what);
  };
  const ended = (outcome: Outcome, reasons: string[], missingSteps: string[] = []): Round => ({
    struck: outcomesOf(strikes, scene, outcome),
    outcome,
    reasons,
    missingSteps,
    story: scene.story,
  });
  try {
    const [first, ...rest] = drawn;
    if (first?.when === 'begin') await strike(first);
    else await scene.create(scene.runId);
    for (const [at, attack] of (first?.when === 'begin' ? rest : drawn).entries()) {
      const from = (moments[at] ?? 0) * 0.95 * subject.length;
      if (!(await scene.reaches(async () => (await scene.progress()) >= from))) break;
      await scene.anyMoment(400);
      await strike(attack);
    }
    await scene.end();
    const { wrong, missingSteps } = await compared(scene);
    // Whatever a run went through, it can be deleted.
    if (wrong.length === 0) await world.clear();
    return ended(wrong.length > 0 ? 'silent' : outcomeOf(scene), wrong, missingSteps);
  } catch (thrown) {
    const reason = thrown instanceof Error ? thrown.message : String(thrown);
    if (!(thrown instanceof Silent))
      scene.note(thrown instanceof Error ? `${thrown.stack}` : reason);
    return ended('silent', [reason]);
  }
}

interface Strike {
  struck: Struck[];
  toldBefore: number;
}

function outcomesOf(strikes: readonly Strike[], scene: Scene, outcome: Outcome): Round['struck'] {
  return strikes.flatMap(({ struck, toldBefore }, at) => {
    const toldAfter = strikes[at + 1]?.toldBefore ?? scene.told.length;
    const own = toldAfter > toldBefore ? 'detected' : 'survived';
    return struck.map((one) => {
      const isLost = outcome === 'lost' && one.isGivenBack === true;
      return { ...one, outcome: outcome === 'silent' ? outcome : isLost ? 'lost' : own };
    });
  });
}

/** Some attacks by their weights; what creates the runs comes first, and once. */
function draw(possible: readonly Attack[], random: Random): Attack[] {
  const lots = possible.flatMap((attack) => Array<Attack>(attack.weight).fill(attack));
  const count = random.int(...attacksOfRound);
  const drawn = Array.from({ length: count }, () => random.pick(lots)).filter(
    (attack) => attack !== undefined,
  );
  const [begin] = drawn.filter(({ when }) => when === 'begin');
  return [...(begin ? [begin] : []), ...drawn.filter(({ when }) => when === 'during')];
}

function outcomeOf({ hasNeededBackup, told }: Scene): Outcome {
  if (hasNeededBackup) return 'lost';
  return told.length > 0 ? 'detected' : 'survived';
}

async function compared({ world, subject, runIds }: Scene) {
  const wrong: string[] = [];
  const missingSteps: string[] = [];
  for (const runId of runIds) {
    const files = await readRunFiles(world.mesh.runDirectory(runId));
    const found = difference(subject.calm, files);
    wrong.push(...found.wrong.map((what) => `${runId}: ${what}`));
    missingSteps.push(...found.missingSteps.map((what) => `${runId}: ${what}`));
  }
  return { wrong, missingSteps };
}
