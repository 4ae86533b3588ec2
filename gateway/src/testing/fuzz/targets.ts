/** What `npm run fuzz` gives to the gateway's readers. */
import { parseConfigJson } from '@spindle/kit';
import { Scratch, type FuzzTarget } from '@spindle/kit/testing';
import { loadRunConfig, parseRunConfig } from '../../config/load.js';
import type { RunConfig } from '../../config/schema.js';
import { initialState } from '../../domain/state.js';
import { parseRecord, serializeRecord } from '../../orchestrator/record.js';
import { logLine } from '../../cli/log-line.js';

const text = (value: string): Buffer => Buffer.from(value);
const scratch = new Scratch();

const config = {
  name: 'tiny',
  model: '/models/tiny',
  data: { path: '/data', limit: 10, resolution: 64 },
  iterations: 2,
  train: { steps: 10, batch_size: 2, learning_rate: 1e-5 },
  sampling: { scheduler: 'ddim', steps: 4, overrides: { eta: 0 } },
  evaluation: { prompts: '/p.txt', metrics: [{ name: 'm', kind: 'clip', model: '/m' }] },
};
const plan = {
  ...{ runId: 'r1', seed: 0, iterations: 2, sft: true, rows: 4, imagesPerPrompt: 1 },
  ...{ evaluationPrompts: 2, evaluationSeed: 0, metrics: ['m'], stop: null, sharedDevice: true },
  ...{ encodeShardSize: 2, sampleShardSize: 2, trainSteps: 1, sftSteps: 1, maxMissing: 0 },
};
const record = serializeRecord({
  ...{ schemaVersion: 1, version: 3, runId: 'r1', config: config as unknown as RunConfig },
  ...{ resolution: 8, prompts: null, trace: {}, state: initialState(plan, 1_000) },
  manifest: { digest: `sha256:${'0'.repeat(64)}`, bytes: 1, mediaType: 'application/jsonl' },
});
/** Without its seal, so that a change is looked at. */
const unsealedRecord = record.slice(record.indexOf('"body":') + 7, -1);
const words = [
  '"train":',
  '"sampling":',
  '"evaluation":',
  '"metrics":',
  '"stop":',
  '"data":',
  '"steps":',
];

function* hostile(): Iterable<Buffer> {
  yield text('['.repeat(1 << 20));
  yield text(`{"name":${'['.repeat(400_000)}${']'.repeat(400_000)}}`);
  yield text(
    JSON.stringify(Object.fromEntries(Array.from({ length: 60_000 }, (_, i) => [`k${i}`, i]))),
  );
  yield text(JSON.stringify({ ['k'.repeat(1 << 19)]: 1, name: 'x'.repeat(1 << 18) }));
  yield text(JSON.stringify({ ...config, evaluation: { metrics: Array(50_000).fill({}) } }));
}

export const targets: readonly FuzzTarget[] = [
  {
    name: 'run-config',
    seeds: () => [text(JSON.stringify(config))],
    words,
    hostile,
    read: (input) =>
      parseRunConfig(parseConfigJson(input.toString('utf8'), 'config_json'), 'config'),
  },
  {
    name: 'run-file',
    seeds: () => [
      text(JSON.stringify(config, null, 2)),
      text('model: /m\ndata:\n  path: /d\niterations: 2\n'),
    ],
    words: [...words, '\n  ', ': ', '- '],
    read: (input) => loadRunConfig(scratch.file('run.yaml', input)),
  },
  {
    name: 'run-record',
    seeds: () => [text(record), text(unsealedRecord)],
    words: ['"state":', '"plan":', '"iterations":', '"stages":', '"done":', '{"sha256":"'],
    hostile: () => [
      text(unsealedRecord.replace('"iterations":2', '"iterations":1000')),
      text(unsealedRecord.replace('"rows":4', '"rows":1000000000')),
      text(`{"schemaVersion":1,"version":${'['.repeat(1 << 20)}${']'.repeat(1 << 20)}}`),
    ],
    read: (input) => parseRecord(input.toString('utf8'), 'run.json'),
  },
  {
    name: 'log-line',
    seeds: () => [
      text('{"level":"warn","time":"2026-01-02T03:04:05.000Z","msg":"x","err":{"message":"y"}}'),
    ],
    words: ['"err":null', '"level":', '"msg":', '"time":'],
    hostile: () => [text(`{"msg":"x","err":${'['.repeat(1 << 20)}${']'.repeat(1 << 20)}}`)],
    read: (input) => logLine('sampler', input.toString('utf8'), 'info'),
  },
];
