/**
 * What a run leaves in its folder, as text that can be compared with a calm run's: digests of the
 * files that have to be equal byte for byte, and of the others what must be equal of them. Times,
 * the run's own name and warnings are left out.
 */
import { unsealed } from '@spindle/kit';
import { createHash } from 'node:crypto';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { join, relative } from 'node:path';

type Json = Record<string, unknown>;

export interface RunFiles {
  /** By file below the run's folder. */
  files: Record<string, string>;
  /** Numbers of every step in metrics.jsonl and in the report's curves, by model and step. */
  steps: Record<string, string>;
}

export interface Difference {
  /** In words, one a file. */
  wrong: string[];
  /** Steps that are missing in metrics.jsonl or in the report's curves. */
  missingSteps: string[];
}

/** Compared by what is in them, see below; or, like TensorBoard's files, not at all. */
const withTimes = /^(run\.json|report\.(json|md|html)|metrics\.(jsonl|csv)|tensorboard\/.*)$/;

/** What a killed process was writing; it goes at a later start of the gateway. */
const leftOver = /(^|\/)\.\d+\.[0-9a-f]{16}\.tmp$/;

export async function readRunFiles(directory: string): Promise<RunFiles> {
  const files: Record<string, string> = {};
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const name = relative(directory, path);
    if (leftOver.test(name)) continue;
    if (entry.isSymbolicLink()) files[name] = `-> ${await readlink(path)}`;
    else if (entry.isFile() && !withTimes.test(name)) files[name] = digest(await readFile(path));
  }
  const text = (name: string): Promise<string> => readFile(join(directory, name), 'utf8');
  files['run.json'] = recordText(await text('run.json'));
  files['report.json'] = reportText(await text('report.json'));
  for (const name of ['report.md', 'report.html'])
    files[name] = (await text(name)).length > 0 ? 'is there' : 'is empty';
  const steps = { ...stepsOf(await text('metrics.jsonl')), ...curvesOf(await text('report.json')) };
  return { files, steps };
}

export function difference(calm: RunFiles, run: RunFiles): Difference {
  const names = [...new Set([...Object.keys(calm.files), ...Object.keys(run.files)])].sort();
  const wrong = names.flatMap((name) => {
    const [expected, got] = [calm.files[name], run.files[name]];
    if (expected === got) return [];
    if (got === undefined) return [`${name} is missing`];
    return [expected === undefined ? `${name} is one too many` : `${name} differs`];
  });
  for (const [step, numbers] of Object.entries(run.steps))
    if (calm.steps[step] !== numbers) wrong.push(`${step} differs`);
  const missingSteps = Object.keys(calm.steps).filter((step) => run.steps[step] === undefined);
  return { wrong, missingSteps };
}

/** Which weights a record names, and which model is best. */
function recordText(text: string): string {
  const { state } = JSON.parse(unsealed(text, 'run.json')) as { state: Json };
  const training = Object.entries(state['training'] as Record<string, Json>).map(
    ([model, { unet, average }]) => [model, unet, average],
  );
  const { status, bestModel, rejected } = state;
  return JSON.stringify({ status, bestModel, rejected, training });
}

function reportText(text: string): string {
  const { models, judges, best_against, best_model, status } = JSON.parse(text) as Json;
  return JSON.stringify({ models, judges, best_against, best_model, status });
}

function stepsOf(text: string): Record<string, string> {
  const lines = text.split('\n').flatMap((line) => {
    try {
      return [JSON.parse(line) as Json];
    } catch {
      // Torn by a crash, or damaged on purpose.
      return [];
    }
  });
  return Object.fromEntries(
    lines.map(({ model, ...step }) => numbersOf('metrics.jsonl', String(model), step)),
  );
}

function curvesOf(text: string): Record<string, string> {
  const { curves } = JSON.parse(text) as { curves: Record<string, Json[]> };
  return Object.fromEntries(
    Object.entries(curves).flatMap(([model, steps]) =>
      steps.map((step) => numbersOf('report.json', model, step)),
    ),
  );
}

function numbersOf(file: string, model: string, { seconds: _, check: _check, ...numbers }: Json) {
  return [`${file}: step ${String(numbers['step'])} of ${model}`, JSON.stringify(numbers)] as const;
}

function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
