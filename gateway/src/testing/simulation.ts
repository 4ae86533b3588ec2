/**
 * A run without processes, clock or files: the state machine of the gateway, a queue that gives a
 * job up after three tries, workers, a trainer, and a store of results, moved one step at a time by
 * a seed. Faults come from the seed too: whoever stands between two steps may die there. A result's
 * value is made of the values that it was made from, so that a wrong input shows in the end.
 */
import { philox } from '@spindle/kit/domain';
import { inputsOf } from '../domain/inputs.js';
import { bestStep, judgingOf, type Judgement } from '../domain/judging.js';
import { mayBeRedone, type Lost } from '../domain/lost.js';
import { transition, type RunEvent } from '../domain/machine.js';
import { modelName, type Model } from '../domain/model.js';
import { judgedSteps, stagesOf, trainingSteps, type RunPlan } from '../domain/plan.js';
import { isJudged } from '../domain/snapshots.js';
import { hasJobs, stageName, type Stage } from '../domain/stage.js';
import {
  initialState,
  isFinal,
  isForgiven,
  stageOf,
  type Letter,
  type RunState,
  type Snapshot,
} from '../domain/state.js';
import { commandsBetween, workOf, type Command } from '../domain/work.js';
import { asSnapshot, snapshotOf } from './simulated-weights.js';

type Told = RunEvent extends infer E ? (E extends RunEvent ? Omit<E, 'at'> : never) : never;

interface Job {
  stage: string;
  shard: number;
  attempts: number;
}
interface Result {
  value: string;
  whole: boolean;
}
type Dead = Letter & { job: Job; loss: boolean };

export interface Simulated {
  state: RunState;
  /** Steps until the run had ended; null: it had not. */
  steps: number | null;
  /** By key: what is stored in the end. */
  values: Record<string, string>;
  faults: number;
  /** How often a person resumed it. */
  resumes: number;
}

const mostAttempts = 3;
/** Of one result: after three the run says that something damages it each time. */
const mostDamages = 2;
const mostSteps = 6_000;

export class Simulation {
  readonly #plan: RunPlan;
  readonly #stages: ReadonlyMap<string, Stage>;
  readonly #seed: bigint;
  #draws = 0;
  /** What a gateway that dies leaves behind. */
  #stored: RunState;
  #gateway: RunState | null = null;
  #suspected = '';
  #queue: Job[] = [];
  #published = new Set<string>();
  #letters: Dead[] = [];
  #time = 0;
  /** The call of the trainer: shards of images that it has read so far. */
  #call: { name: string; read: number } | null = null;
  readonly #workers: (Job | null)[] = [null, null];
  /** Stood still past its lease with a job that another worker has got since. */
  #frozen: Job[] = [];
  readonly #results = new Map<string, Result>();
  /** What trainings have left on the way, by "train-spin1@3". */
  readonly #snapshots = new Map<string, string>();
  readonly #damages = new Map<string, number>();
  #faultsLeft: number;
  #faults = 0;
  #resumes = 0;

  constructor(plan: RunPlan, seed: number, faults: number) {
    this.#plan = plan;
    this.#stages = new Map(stagesOf(plan).map((stage) => [stage.name, stage]));
    this.#seed = BigInt(seed);
    this.#faultsLeft = faults;
    this.#stored = transition(initialState(plan, 0), { type: 'start', at: 0 });
  }

  run(): Simulated {
    let steps: number | null = null;
    for (let step = 0; step < mostSteps; step++) {
      this.#step();
      if (this.#stored.status !== 'succeeded') continue;
      steps = step;
      break;
    }
    const values = Object.fromEntries([...this.#results].map(([key, { value }]) => [key, value]));
    const [faults, resumes] = [this.#faults, this.#resumes];
    return { state: this.#stored, steps, values, faults, resumes };
  }

  #below(bound: number): number {
    const [word] = philox(this.#seed, [this.#draws++, 0, 0, 0]);
    return word % bound;
  }

  #step(): void {
    this.#time++;
    if (this.#faultsLeft > 0 && this.#below(12) === 0) {
      this.#faultsLeft--;
      this.#faults++;
      this.#fault();
      return;
    }
    if (this.#gateway === null) this.#adopt();
    else if (this.#below(2) === 0) this.#work();
    else this.#govern(this.#gateway);
  }

  // --- faults

  #fault(): void {
    switch (this.#below(7)) {
      case 0:
        this.#gateway = null;
        return;
      case 1:
        // The trainer dies as well as a worker; it is called again.
        if (this.#call && this.#below(3) === 0) this.#call.read = 0;
        return this.#crash(this.#below(this.#workers.length));
      case 2: {
        const at = this.#below(this.#workers.length);
        const held = this.#workers[at];
        if (held) this.#frozen.push({ ...held });
        return this.#crash(at);
      }
      case 3:
        this.#queue = [];
        this.#published.clear();
        this.#letters = [];
        return;
      case 4:
      case 5:
        return this.#damage(this.#below(2) === 0);
      default:
        if (this.#gateway) this.#dispatch({ type: 'pause', reason: 'a person asked for it' });
    }
  }

  /** Its job goes to another worker, or is given up. */
  #crash(at: number): void {
    const job = this.#workers[at];
    this.#workers[at] = null;
    if (!job) return;
    if (job.attempts >= mostAttempts) this.#giveUp(job, false);
    else this.#queue.push(job);
  }

  #giveUp(job: Job, loss: boolean): void {
    const key = `${job.stage}/${job.shard}`;
    const count = this.#letters.filter((letter) => letter.key === key).length + 1;
    // Times of the message server are far above any count.
    this.#letters.push({ key, count, at: 2e9 + this.#time, job, loss });
  }

  #damage(remove: boolean): void {
    const keys = [...this.#results.keys()];
    // Half of the time what nobody may have read yet.
    const at = this.#below(2) === 0 ? keys.length - 1 : this.#below(Math.max(1, keys.length));
    const key = keys[at];
    const result = key === undefined ? undefined : this.#results.get(key);
    if (key === undefined || !result) return;
    const times = this.#damages.get(key) ?? 0;
    if (times >= mostDamages) return;
    this.#damages.set(key, times + 1);
    if (remove) this.#results.delete(key);
    else this.#results.set(key, { ...result, whole: false });
  }

  // --- the gateway

  #adopt(): void {
    this.#gateway = structuredClone(this.#stored);
    this.#call = null;
    this.#suspected = '';
    if (isFinal(this.#gateway.status) && this.#gateway.status !== 'failed') return;
    this.#scan();
    this.#dispatch({ type: 'adopted' });
    if (this.#gateway)
      for (const command of commandsBetween(null, this.#gateway)) this.#carryOut(command);
  }

  /** Stored first; whoever dies before the commands leaves them to the next one. */
  #dispatch(told: Told): void {
    const before = this.#gateway;
    if (before === null) return;
    const event = { ...told, at: this.#time };
    const after = transition(before, event);
    if (after === before) return;
    this.#stored = after;
    this.#gateway = after;
    if (this.#faultsLeft > 0 && this.#below(150) === 0) {
      this.#gateway = null;
      return;
    }
    for (const command of commandsBetween(before, after)) this.#carryOut(command);
    if (after.status !== 'running') this.#call = null;
  }

  #carryOut(command: Command): void {
    if (command.type === 'train')
      this.#call = { name: stageName({ kind: 'train', model: command.model }), read: 0 };
    if (command.type === 'stop-training') this.#call = null;
    if (command.type === 'purge') this.#queue = [];
    if (command.type === 'drop-snapshots')
      for (const step of command.steps) this.#snapshots.delete(snapshotOf(command.model, step));
    if (command.type !== 'publish' || this.#gateway === null) return;
    for (const shard of command.shards) {
      const id = `${command.stage}/${shard}#${this.#gateway.round}`;
      if (this.#published.has(id)) continue;
      this.#published.add(id);
      this.#queue.push({ stage: command.stage, shard, attempts: 0 });
    }
  }

  #govern(state: RunState): void {
    if (state.status === 'failed' || state.status === 'paused') return this.#resume();
    if (this.#stage('report') && stageOf(state, 'report').status === 'running')
      return this.#finish('report', { type: 'report-written' });
    switch (this.#below(5)) {
      case 0:
        return this.#scan();
      case 1:
        return this.#takeLetters();
      case 2:
        return this.#checkQueue(state);
      case 3:
        return this.#train(state);
      default:
        return this.#evaluate(state);
    }
  }

  /** A person, after some time. */
  #resume(): void {
    if (this.#below(5) !== 0) return;
    this.#resumes++;
    const forgiven = Object.fromEntries(this.#letters.map(({ key, at }) => [key, at]));
    this.#dispatch({ type: 'resume', forgiven });
    if (this.#gateway)
      for (const command of commandsBetween(null, this.#gateway)) this.#carryOut(command);
  }

  #scan(): void {
    for (const key of this.#results.keys()) {
      const [stage = '', shard = ''] = key.split('/');
      const known = this.#gateway?.stages[stage];
      if (!known || !hasJobs(this.#stage(stage)?.kind ?? 'report')) continue;
      if (known.done.includes(Number(shard))) continue;
      // What does not parse is no result.
      if (!this.#results.get(key)?.whole) continue;
      const judgement = this.#judgement(stage, key);
      const jobs = [
        { shard: Number(shard), rejected: [], truncated: 0, ...(judgement && { judgement }) },
      ];
      this.#dispatch({ type: 'jobs-done', stage, jobs });
    }
  }

  #takeLetters(): void {
    for (const { job, loss, ...letter } of [...this.#letters]) {
      const state = this.#gateway;
      if (state === null || state.status !== 'running' || isForgiven(state, letter)) continue;
      if (loss && this.#isMended(state, job, letter)) continue;
      const [stage, shard] = [job.stage, job.shard];
      const reason = loss ? 'an input is lost' : 'it ended its worker';
      this.#dispatch({ type: 'job-dead', stage, shard, reason, attempts: job.attempts, letter });
    }
  }

  #isMended(state: RunState, job: Job, letter: Letter): boolean {
    if (this.#heal(state, job.stage, job.shard, letter)) return true;
    if (state.stages[job.stage]?.status !== 'waiting' && letter.count > 1) return false;
    this.#dispatch({ type: 'inputs-lost', shards: [], models: [], texts: [], letter });
    return true;
  }

  /** As the orchestrator's heal(): what is lost of a stage's inputs is made again. */
  #heal(state: RunState, stage: string, shard?: number, letter?: Letter): boolean {
    const lost: Lost = { shards: [], models: [], texts: [] };
    let dropped = 0;
    for (const key of this.#inputs(stage, shard)) {
      const result = this.#results.get(key);
      if (result?.whole) continue;
      const [name = '', index = '0'] = key.split('/');
      const at = Number(index);
      const found = this.#stage(name);
      const own = state.stages[name];
      if (result && own?.status === 'running' && !own.done.includes(at)) {
        this.#results.delete(key);
        dropped++;
      }
      if (!found || !mayBeRedone(state, name, at)) continue;
      const trained = found.kind === 'train' ? modelName(found.model) : null;
      if (trained !== null && state.training[trained]?.unet) lost.models.push(trained);
      else if (trained === null && stageOf(state, name).done.includes(at))
        lost.shards.push({ stage: name, shard: at });
      else continue;
      this.#results.delete(key);
    }
    if (lost.shards.length + lost.models.length + dropped === 0) return false;
    this.#dispatch({ type: 'inputs-lost', ...lost, ...(letter && { letter }) });
    return true;
  }

  #checkQueue(state: RunState): void {
    const waiting = [...workOf(state).jobs].flatMap(([stage, shards]) =>
      shards.map((shard) => `${stage}/${shard}`),
    );
    const busy = this.#queue.length + this.#workers.filter((job) => job !== null).length > 0;
    const suspected = waiting.length === 0 || busy ? '' : waiting.join(' ');
    const sure = suspected !== '' && suspected === this.#suspected;
    this.#suspected = sure ? '' : suspected;
    if (sure) this.#dispatch({ type: 'jobs-lost' });
  }

  /** One move of the trainer: it reads a shard, waits for one, or commits. */
  #train(state: RunState): void {
    const call = this.#call;
    const stage = call && this.#stage(call.name);
    if (!call || stage?.kind !== 'train') return;
    const { name } = call;
    const key = `${name}/0`;
    if (!this.#results.get(key)?.whole) {
      const drawing = stage.early?.stage;
      const shards = drawing === undefined ? 0 : (this.#stage(drawing)?.shards ?? 0);
      if (call.read < shards) {
        const shard = call.read;
        const result = this.#results.get(`${drawing}/${shard}`);
        if (result?.whole) call.read++;
        else if (result || stageOf(state, drawing ?? '').done.includes(shard)) this.#miss(name);
        return;
      }
      const value = this.#made(name);
      if (value === null) return this.#miss(name);
      if (this.#leave(stage.model, value)) return;
      this.#results.set(key, { value, whole: true });
    }
    const chosen = this.#choose(stage.model, this.#results.get(key)?.value ?? '');
    if (chosen === null) return;
    this.#call = null;
    this.#dispatch({ type: 'train-finished', model: modelName(stage.model), ...chosen });
  }

  /** Leaves the weights of a judged step; false when all but the last are left. */
  #leave(model: Model, value: string): boolean {
    const last = trainingSteps(this.#plan, model);
    const known = this.#gateway?.training[modelName(model)]?.snapshots ?? {};
    const step = judgedSteps(this.#plan, model).find((one) => one !== last && !(one in known));
    if (step === undefined) return false;
    const weights = digest([snapshotOf(model, step), value]);
    this.#snapshots.set(snapshotOf(model, step), weights);
    const snapshot = asSnapshot(weights);
    this.#dispatch({ type: 'train-snapshot', model: modelName(model), step, snapshot });
    return true;
  }

  /** As the orchestrator's chooseSnapshot(); null while judges are at it. */
  #choose(model: Model, value: string): (Snapshot & { kept?: number }) | null {
    const judging = judgingOf(this.#plan, model);
    if (!judging) return asSnapshot(value);
    const [name, last] = [modelName(model), trainingSteps(this.#plan, model)];
    this.#snapshots.set(snapshotOf(model, last), value);
    const told = { type: 'train-snapshot', model: name, step: last } as const;
    this.#dispatch({ ...told, snapshot: asSnapshot(value) });
    const state = this.#gateway;
    if (state === null || !isJudged(state, model)) return null;
    const kept = bestStep(state.training[name]?.judged ?? {}) ?? last;
    return { ...asSnapshot(this.#snapshots.get(snapshotOf(model, kept)) ?? 'lost'), kept };
  }

  /** A score that is other for other images. */
  #judgement(stage: string, key: string): Judgement | null {
    if (this.#stage(stage)?.kind !== 'judge-score') return null;
    const mean = Number.parseInt(this.#results.get(key)?.value ?? '', 16);
    return { mean, standardError: 0, n: 1 };
  }

  /** As the orchestrator's task runner: a call that fails for a loss is made again. */
  #miss(stage: string): void {
    const state = this.#gateway;
    if (state === null) return;
    this.#call = null;
    if (!this.#heal(state, stage))
      return this.#dispatch({ type: 'failed', stage, reason: 'an input is lost' });
    const { training } = this.#gateway ? workOf(this.#gateway) : { training: null };
    const isWanted = training && stageName({ kind: 'train', model: training }) === stage;
    if (isWanted && this.#call === null) this.#call = { name: stage, read: 0 };
  }

  #evaluate(state: RunState): void {
    const [model] = workOf(state).evaluating;
    if (!model) return;
    const name = modelName(model);
    const numbers = { median: 0, standardError: 0, winRate: 0, n: 1 };
    const metrics = [{ metric: 'pick', mean: 1, differenceLow: 0, differenceHigh: 0, ...numbers }];
    const results = [{ model: name, metrics }];
    this.#finish(stageName({ kind: 'evaluate', model }), {
      type: 'evaluated',
      model: name,
      results,
    });
  }

  /** Reads all that it needs, or has it made again. */
  #finish(stage: string, event: Told): void {
    const state = this.#gateway;
    if (state === null) return;
    // Of models that are still to come there is nothing yet.
    const read = this.#inputs(stage).filter((key) => {
      const [name = '', shard = ''] = key.split('/');
      return (
        this.#stage(name)?.kind === 'train' || state.stages[name]?.done.includes(Number(shard))
      );
    });
    if (read.every((key) => this.#results.get(key)?.whole)) this.#dispatch(event);
    else if (!this.#heal(state, stage))
      this.#dispatch({ type: 'failed', stage, reason: 'an input is lost' });
  }

  // --- the workers

  #work(): void {
    const woken =
      this.#frozen.length > 0 && this.#below(4) === 0 ? this.#frozen.shift() : undefined;
    if (woken) return this.#perform(woken);
    const at = this.#below(this.#workers.length);
    const job = this.#workers[at];
    if (job) {
      this.#workers[at] = null;
      this.#perform(job);
      return;
    }
    const next = this.#queue.splice(this.#below(Math.max(1, this.#queue.length)), 1)[0];
    if (next) this.#workers[at] = { ...next, attempts: next.attempts + 1 };
  }

  /** The first result of a job stays. */
  #perform(job: Job): void {
    const key = `${job.stage}/${job.shard}`;
    if (this.#results.get(key)?.whole) return;
    const value = this.#made(job.stage, job.shard);
    if (value === null) this.#giveUp(job, true);
    else this.#results.set(key, { value, whole: true });
  }

  /** Null where something that it is made from is damaged or gone. */
  #made(stage: string, shard = 0): string | null {
    const read = this.#inputs(stage, shard).map((key) => this.#results.get(key));
    if (read.some((result) => !result?.whole)) return null;
    const values = read.map((result) => result?.value ?? '');
    const known = this.#stage(stage);
    if (known?.kind === 'judge-sample') {
      const step = judgedSteps(this.#plan, known.model)[shard] ?? 0;
      const weights = this.#snapshots.get(snapshotOf(known.model, step));
      if (weights === undefined) return null;
      values.push(weights);
    }
    return digest([`${stage}/${shard}`, ...values]);
  }

  #stage(name: string): Stage | undefined {
    return this.#stages.get(name);
  }

  /** Keys of the results that a stage reads. */
  #inputs(name: string, shard?: number): string[] {
    const stage = this.#stage(name);
    if (!stage) return [];
    const { stages, shard: own, models } = inputsOf(this.#plan, stage, shard);
    const read = stages.flatMap((one) =>
      own !== undefined
        ? [`${one}/${own}`]
        : Array.from({ length: this.#stage(one)?.shards ?? 0 }, (_, i) => `${one}/${i}`),
    );
    return [...read, ...models.map((model) => `${stageName({ kind: 'train', model })}/0`)];
  }
}

/** FNV-1a in 32 bits; short, and other for other inputs. */
function digest(parts: readonly string[]): string {
  let hash = 0x811c9dc5;
  for (const part of parts)
    for (let i = 0; i <= part.length; i++)
      hash = Math.imul(hash ^ (part.charCodeAt(i) || 0x1f), 0x01000193) >>> 0;
  return hash.toString(16).padStart(8, '0');
}
