/**
 * A setting, and a number of a step, is stated in the proto and is found on its whole way: in what
 * crosses into the engine, in the addon, or with the trainer that goes by it. What is made from the
 * proto's fields (the gateway's mapping, tables, curves) is tested where it is made.
 */
import { fileURLToPath } from 'node:url';
import {
  LoraSettingsSchema,
  RankErrorsSchema,
  stepNumbers,
  TrainSettingsSchema,
} from '@spindle/proto';
import ts from 'typescript';
import { describe, expect, test } from 'vitest';
import { readSources } from './sources.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const bridge = readSources(root, ['native-cuda/ts', 'native-cuda/addon'], /\.(ts|cc)$/);
const trainer = readSources(root, ['services/trainer/src'], /\.ts$/).filter(
  ({ path }) => !/\.test\.ts$|\/testing\/|\/settings\.ts$/.test(path),
);

/** Settings that the trainer goes by itself; the engine never sees them. */
const trainerOnly = new Set([
  'batchSize',
  'gradientAccumulation',
  'captionDropout',
  'checkpointSteps',
  'keepCheckpoints',
  'samplePosterior',
  'autoBetaSlope',
  'previousShare',
  'emaApart',
  'onDivergence',
  'maxRollbacks',
  'judgeEvery',
]);
/** What the engine calls otherwise. */
const engineNames: Readonly<Record<string, string>> = { steps: 'totalSteps' };
/** Numbers of a step that the trainer knows without the engine. */
const trainerNumbers = new Set(['step', 'implicitAccuracy', 'beta', 'seconds']);

const names = (fields: readonly { localName: string }[]): string[] =>
  fields.map(({ localName }) => localName);

/** Members of an interface of the bridge, and of the types inside it. */
function membersOf(name: string): string[] {
  const file = bridge.find(({ text }) => text.includes(`export interface ${name} {`));
  const source = ts.createSourceFile(name, file?.text ?? '', ts.ScriptTarget.Latest, true);
  const found: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isPropertySignature(node)) found.push(node.name.getText());
    ts.forEachChild(node, visit);
  };
  source.forEachChild((node) => {
    if (ts.isInterfaceDeclaration(node) && node.name.text === name) visit(node);
  });
  return found;
}

/** The body of a function of the addon. */
function bodyOf(signature: string): string {
  const file = bridge.find(({ path, text }) => path.endsWith('.cc') && text.includes(signature));
  const text = file?.text ?? '';
  const start = text.indexOf(signature);
  return text.slice(start, text.indexOf('\n}', start));
}

const trainerSays = (words: string): boolean =>
  trainer.some(({ text }) => new RegExp(`\\b${words}\\b`).test(text));

describe('a training setting', () => {
  const options = membersOf('TrainerOptionsDto');
  const addon = bodyOf('TrainerOptions to_options(');

  test.each(names(TrainSettingsSchema.fields))('%s arrives where it acts', (field) => {
    if (trainerOnly.has(field)) {
      expect(trainerSays(`settings\\.${field}`), `services/trainer goes by ${field}`).toBe(true);
      expect(options).not.toContain(field);
      return;
    }
    const name = engineNames[field] ?? field;
    expect(options, 'TrainerOptionsDto').toContain(name);
    expect(addon, 'to_options').toContain(`"${name}"`);
  });

  test.each(names(LoraSettingsSchema.fields))('lora.%s arrives in the engine', (field) => {
    expect(options, 'TrainerOptionsDto').toContain(field);
    expect(addon, 'to_options').toContain(`"${field}"`);
  });

  test('of the engine comes from the proto, or from the pipeline and the request', () => {
    const known = [...TrainSettingsSchema.fields, ...LoraSettingsSchema.fields];
    const sent = names(known).map((field) => engineNames[field] ?? field);
    const others = options.filter((name) => !sent.includes(name));
    expect(others.sort()).toEqual(['iteration', 'objective', 'schedulerConfig']);
  });
});

describe("a step's number", () => {
  const told = membersOf('TrainErrorsDto');
  const applied = membersOf('TrainStepResultDto');

  test.each(stepNumbers.map(({ key }) => key))('%s comes from the engine or the trainer', (key) => {
    if (trainerNumbers.has(key)) {
      expect(trainerSays(key), `services/trainer tells ${key}`).toBe(true);
      return;
    }
    expect([...told, ...applied], 'TrainErrorsDto or TrainStepResultDto').toContain(key);
    const addon = bridge.find(({ text }) => text.includes('TrainerOptions to_options('));
    expect(addon?.text, 'the addon').toContain(`{"${key}", `);
  });

  test('of a micro-batch is the same from the engine and from another rank', () => {
    expect(names(RankErrorsSchema.fields).sort()).toEqual([...told].sort());
  });
});
