/**
 * Gives a reader inputs without end and looks at what becomes of each: only errors of ours, in
 * bounded time and memory, with nothing left behind. The same seed gives the same inputs.
 */
import { mutate } from './mutate.js';
import { Random } from './random.js';
import { limits, type FuzzTarget } from './target.js';
import type { Watchdog } from './watchdog.js';

export interface FuzzOptions {
  seed: number;
  /** Inputs that once failed, or that a person thought of. */
  corpus: readonly Uint8Array[];
  /** Ends after so many inputs, or so many seconds. */
  executions: number;
  seconds: number;
  /** Whether inputs made to cost much are among them. */
  hostile: boolean;
  watchdog: Watchdog;
  /** Hears of each input before it is read. */
  before?: (input: Buffer) => void;
}

export interface FuzzFailure {
  input: Buffer;
  problem: string;
}

export interface FuzzResult {
  executions: number;
  seconds: number;
  /** Kinds of outcome that were seen: a measure of how far inputs came. */
  outcomes: number;
  failure?: FuzzFailure;
}

/** Where messages repeat the input, every one looks new. */
const mostOutcomes = 1000;
/** Errors that a caller of ours can tell apart. */
const errorNames = ['SpindleError', 'EngineError'];

export async function fuzz(target: FuzzTarget, options: FuzzOptions): Promise<FuzzResult> {
  const pool: Buffer[] = [...(await target.seeds()), ...options.corpus].map((input) =>
    Buffer.from(input),
  );
  const words = target.words ?? [];
  const random = new Random(options.seed);
  const seen = new Set<string>();
  const started = performance.now();
  const seconds = (): number => (performance.now() - started) / 1000;
  const hostile = (options.hostile ? target.hostile?.() : undefined) ?? [];
  let executions = 0;
  const tryOne = async (input: Buffer): Promise<FuzzFailure | undefined> => {
    options.before?.(input);
    executions += 1;
    const { problem, outcome } = await readOnce(target, input, options.watchdog);
    // An input with a new outcome is worth changing further.
    if (!seen.has(outcome) && input.length <= limits.inputBytes && seen.size < mostOutcomes)
      pool.push(input);
    seen.add(outcome);
    return problem === undefined ? undefined : { input, problem };
  };
  const result = (failure?: FuzzFailure): FuzzResult => ({
    executions,
    seconds: seconds(),
    outcomes: seen.size,
    ...(failure && { failure }),
  });
  for (const inputs of [[...pool], hostile])
    for (const input of inputs) {
      const failure = await tryOne(Buffer.from(input));
      if (failure) return result(failure);
    }
  // Hostile inputs take their own time.
  const until = seconds() + options.seconds;
  for (let n = 0; n < options.executions && seconds() < until; n++) {
    const failure = await tryOne(mutate(random, { pool, words }));
    if (failure) return result(failure);
  }
  return result();
}

/** What reading came to, without numbers and names; `problem` where it is not allowed. */
async function readOnce(
  target: FuzzTarget,
  input: Buffer,
  watchdog: Watchdog,
): Promise<{ outcome: string; problem?: string }> {
  const rejected: unknown[] = [];
  const onRejection = (reason: unknown): void => void rejected.push(reason);
  process.on('unhandledRejection', onRejection);
  const before = process.cpuUsage();
  watchdog.begin(input);
  let outcome = 'read';
  let problem: string | undefined;
  try {
    await target.read(input);
  } catch (error) {
    outcome = outcomeOf(error);
    problem = problemOf(error);
  } finally {
    // Rejections that nobody awaits are told between turns of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
    watchdog.end();
    process.off('unhandledRejection', onRejection);
  }
  const { user, system } = process.cpuUsage(before);
  const spent = (user + system) / 1e6;
  const resident = process.resourceUsage().maxRSS * 1024;
  if (rejected.length > 0) problem ??= `a rejection that nobody handles: ${textOf(rejected[0])}`;
  if (spent > limits.seconds) problem ??= `${spent.toFixed(1)} s of CPU time for one input`;
  if (resident > limits.residentBytes) problem ??= `${resident >> 20} MiB of memory`;
  problem ??= pollution();
  return { outcome, ...(problem !== undefined && { problem }) };
}

/** What was expected, without what was given; of a reader that is not ours, what it says. */
function outcomeOf(error: unknown): string {
  const { message, cause } = error instanceof Error ? error : new Error(String(error));
  const [expected = ''] = message.slice(0, 300).split(', got');
  const inner = cause instanceof Error ? cause.message.slice(0, 80) : '';
  return `${expected} ${inner}`.replace(/"[^"]*"?/g, '"').replace(/[^ a-z:,]+/gi, '#');
}

function problemOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !errorNames.includes(error.name))
    return `an error that is none of ours: ${textOf(error)}`;
  if (!('code' in error) || error.code === 'INTERNAL')
    return `an error without a code for bad input: ${textOf(error)}`;
  return error.message.length > limits.messageLength
    ? `a message of ${error.message.length} characters: ${error.message.slice(0, 200)}`
    : undefined;
}

function textOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

const prototypes = [Object, Array, Function, String, Number, Map, Set].map(
  (type) => type.prototype as object,
);
const known = prototypes.map((prototype) => Reflect.ownKeys(prototype).length);

function pollution(): string | undefined {
  const at = prototypes.findIndex((prototype, i) => Reflect.ownKeys(prototype).length !== known[i]);
  return at === -1 ? undefined : `a prototype has new members, number ${at}`;
}
