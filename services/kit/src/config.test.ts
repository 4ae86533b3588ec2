import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { nearest } from './config-issues.js';
import { parseConfig, parseConfigJson, parseYamlFile } from './config.js';

const schema = z.strictObject({
  name: z.string().min(1),
  iterations: z.int().min(1).max(100).default(3),
  train: z
    .strictObject({
      learningRate: z.number().gt(0),
      schedule: z.enum(['constant', 'linear', 'cosine']).default('linear'),
    })
    .prefault({ learningRate: 1e-5 }),
  metrics: z.array(z.strictObject({ kind: z.enum(['clip', 'aesthetic']) })).optional(),
  stop: z
    .union([z.literal(false), z.strictObject({ metric: z.string(), patience: z.int() })])
    .optional(),
});

function message(value: unknown): string {
  try {
    parseConfig(schema, value, 'run.yaml');
  } catch (error) {
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
    return (error as Error).message;
  }
  return 'accepted';
}

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'spindle-config-'));
});
afterAll(() => rm(dir, { recursive: true }));

async function fileMessage(text: string): Promise<string> {
  const file = join(dir, 'run.yaml');
  await writeFile(file, text);
  try {
    parseYamlFile(schema, file);
  } catch (error) {
    return (error as Error).message.replaceAll(file, 'run.yaml');
  }
  return 'accepted';
}

test('defaults are filled in', () => {
  expect(parseConfig(schema, { name: 'x' }, 'run.yaml')).toEqual({
    name: 'x',
    iterations: 3,
    train: { learningRate: 1e-5, schedule: 'linear' },
  });
});

test.each<[unknown, string]>([
  [{ name: 'x', iteratoins: 3 }, 'run.yaml: iteratoins: unknown key; did you mean "iterations"?'],
  [
    { name: 'x', train: { learning_rate: 1 } },
    'run.yaml: train.learningRate: expected a number, got nothing\nrun.yaml: train.learning_rate: unknown key; did you mean "learningRate"?',
  ],
  [
    { name: 'x', zzz: 1 },
    'run.yaml: zzz: unknown key; expected one of name, iterations, train, metrics, stop',
  ],
  [{ name: 'x', iterations: '3' }, 'run.yaml: iterations: expected a number, got "3"'],
  [{ name: 'x', iterations: 2.5 }, 'run.yaml: iterations: expected an integer, got 2.5'],
  [{ name: 'x', iterations: 0 }, 'run.yaml: iterations: expected at least 1, got 0'],
  [{ name: 'x', iterations: 1000 }, 'run.yaml: iterations: expected at most 100, got 1000'],
  [{ name: 'x', iterations: NaN }, 'run.yaml: iterations: expected a number, got NaN'],
  [
    { name: 'x', train: { learningRate: 0 } },
    'run.yaml: train.learningRate: expected more than 0, got 0',
  ],
  [
    { name: 'x', train: { learningRate: Infinity } },
    'run.yaml: train.learningRate: expected a number, got Infinity',
  ],
  [
    { name: 'x', train: { learningRate: 1, schedule: 'cosin' } },
    'run.yaml: train.schedule: expected one of "constant", "linear", "cosine", got "cosin"; did you mean "cosine"?',
  ],
  [{ name: '' }, 'run.yaml: name: expected at least 1 character, got ""'],
  [{}, 'run.yaml: name: expected text, got nothing'],
  [{ name: null }, 'run.yaml: name: expected text, got null'],
  [
    { name: 'x', metrics: [{ kind: 'clip' }, { kind: 'pick' }] },
    'run.yaml: metrics[1].kind: expected one of "clip", "aesthetic", got "pick"',
  ],
  [{ name: 'x', metrics: {} }, 'run.yaml: metrics: expected a list, got an object'],
  [
    { name: 'x', stop: { metric: 'm', patience: 1, metrik: 2 } },
    'run.yaml: stop.metrik: unknown key; did you mean "metric"?',
  ],
  [{ name: 'x', stop: true }, 'run.yaml: stop: expected false or an object, got true'],
  ['text', 'run.yaml: expected an object, got "text"'],
  [null, 'run.yaml: expected an object, got null'],
])('%j is refused in one clear sentence', (value, expected) => {
  expect(message(value)).toBe(expected);
});

test('messages about a file name the line', async () => {
  expect(await fileMessage('name: x\n\ntrain:\n  learningRate: 1\n  shedule: linear\n')).toBe(
    'run.yaml:5: train.shedule: unknown key; did you mean "schedule"?',
  );
  expect(await fileMessage('name: x\nmetrics:\n  - kind: clip\n  - kind: 7\n')).toBe(
    'run.yaml:4: metrics[1].kind: expected one of "clip", "aesthetic", got 7',
  );
  expect(await fileMessage('# nothing\niterations: 2\n')).toBe(
    'run.yaml:2: name: expected text, got nothing',
  );
});

test('JSON is read too', async () => {
  expect(await fileMessage('{\n\t"name": "x",\n\t"iterations": 0\n}')).toBe(
    'run.yaml:3: iterations: expected at least 1, got 0',
  );
  expect(await fileMessage('{"name": "x"}')).toBe('accepted');
});

test('broken, repeated, endless and missing input is refused', async () => {
  expect(await fileMessage('name: [x\n')).toMatch(/^run.yaml:\d: /);
  expect(await fileMessage('name: x\nname: y\n')).toMatch(/^run.yaml:2: Map keys must be unique/);
  expect(await fileMessage('name: x\n1: y\n"1": z\n')).toMatch(/^run.yaml:3: .*"1" is there twice/);
  const bomb = ['a: &a [x,x,x,x,x,x,x,x,x,x]'];
  for (let i = 0; i < 8; i++)
    bomb.push(
      `${'bcdefghij'[i]}: &${'bcdefghij'[i]} [${Array(10).fill(`*${'abcdefghij'[i]}`).join(',')}]`,
    );
  expect(await fileMessage(bomb.join('\n'))).toMatch(/^run.yaml: .*alias/);
  expect(await fileMessage('__proto__: {name: x}')).toMatch(/__proto__/);
  expect(await fileMessage('')).toBe('run.yaml:1: expected an object, got null');
  expect(await fileMessage(`name: ${'x'.repeat(5 << 20)}`)).toMatch(/expected a file of at most/);
  expect(() => parseYamlFile(schema, join(dir, 'none.yaml'))).toThrow(
    /none.yaml: cannot be read: ENOENT/,
  );
});

test('large configs are read, or refused, in no time', async () => {
  const started = performance.now();
  const keys = Array.from({ length: 50_000 }, (_, i) => `key${i}: 1`).join('\n');
  const told = (await fileMessage(`name: x\n${keys}`)).split('\n');
  expect(told).toHaveLength(21);
  expect(told.at(-1)).toBe('and 49980 more');
  expect(message({ name: 'x', ['n'.repeat(1 << 20)]: 1 })).toBe(
    `run.yaml: ${'n'.repeat(80)}…: unknown key; expected one of name, iterations, train, ` +
      'metrics, stop',
  );
  expect(message({ name: 'x', metrics: Array(1000).fill(1) })).toMatch(/\nand 980 more$/);
  for (const deep of [
    '['.repeat(1 << 19),
    '['.repeat(5000) + ']'.repeat(5000),
    '- '.repeat(1 << 19),
  ])
    expect(await fileMessage(deep)).toBe(
      'run.yaml:1: expected lists and maps in at most 100 levels, got more',
    );
  expect(performance.now() - started).toBeLessThan(10_000);
});

test('messages of the YAML parser are short', async () => {
  const told = await fileMessage(`name: |${'x'.repeat(1 << 19)}\n  y\n`);
  expect(told).toMatch(/^run.yaml:1: Block scalar header includes extra characters: \|x+…$/);
  expect(told.length).toBeLessThan(400);
});

test('JSON of a config has a size', () => {
  expect(parseConfigJson('{"a":[1]}', 'config_json')).toEqual({ a: [1] });
  expect(() => parseConfigJson(`"${'x'.repeat(1 << 20)}"`, 'config_json')).toThrow(
    'config_json: expected at most 1048576 bytes, got 1048578',
  );
  expect(() => parseConfigJson('{', 'config_json')).toThrow(
    'config_json: expected a run config in JSON, got text that does not parse.',
  );
});

test('the nearest key is found within a few typing errors', () => {
  expect(nearest('Steps', ['steps', 'stop'])).toBe('steps');
  expect(nearest('guidence', ['guidance', 'steps'])).toBe('guidance');
  expect(nearest('xyzzy', ['guidance', 'steps'])).toBeUndefined();
  expect(nearest('x', [])).toBeUndefined();
  expect(nearest('steps'.repeat(20), ['steps'])).toBeUndefined();
});
