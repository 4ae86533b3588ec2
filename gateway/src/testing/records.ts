/** Run records as a gateway finds them when it starts: many that have ended, one at work. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseRunConfig } from '../config/load.js';
import type { RunConfig } from '../config/schema.js';
import { stagesOf } from '../domain/plan.js';
import { initialState, stateSchemaVersion, type RunState } from '../domain/state.js';
import { planOf } from '../server/create-run.js';
import { serializeRecord, type RunRecord } from '../orchestrator/record.js';

const dayMs = 86_400_000;
const blob = { digest: `sha256:${'a'.repeat(64)}`, bytes: 1, mediaType: 'application/jsonl' };

/** A run of three iterations that has succeeded; `at` is when it was created. */
export function succeededRecord(runId: string, at: number): RunRecord {
  const record = recordOf(runId, exampleConfig(runId, 3), { rows: 512, at });
  const { state } = record;
  for (const stage of stagesOf(state.plan))
    Object.assign(state.stages[stage.name] ?? {}, {
      status: 'done',
      done: Array.from({ length: stage.shards }, (_, i) => i),
      items: stage.items,
      activeMs: 60_000,
    });
  const models = ['base', 'spin1', 'spin2', 'spin3'];
  state.results = models.map((model, i) => ({
    model,
    metrics: ['pick', 'clip'].map((metric) => ({
      metric,
      mean: 0.2 + i / 100,
      median: 0.2 + i / 100,
      standardError: 0.01,
      winRate: 0.5 + i / 20,
      differenceLow: 0.001,
      differenceHigh: 0.02,
      n: 200,
    })),
  }));
  state.training = Object.fromEntries(
    models
      .slice(1)
      .map((model) => [model, { last: null, recent: [], unet: { config: blob, weights: blob } }]),
  );
  Object.assign(state, { status: 'succeeded', bestModel: 'spin3', updatedAt: at + dayMs / 24 });
  return record;
}

/** A run in the middle of drawing: `jobs` images, one a job; the first `done` are drawn. */
export function drawingRecord(runId: string, at: number, jobs: number, done = 0): RunRecord {
  const record = recordOf(runId, exampleConfig(runId, 1), { rows: jobs, at });
  const { state } = record;
  const [encode, drawing] = [state.stages['encode'], state.stages['sample-base']];
  const [first] = stagesOf(state.plan);
  Object.assign(encode ?? {}, {
    status: 'done',
    done: Array.from({ length: first?.shards ?? 0 }, (_, i) => i),
    items: jobs,
    activeMs: 60_000,
  });
  Object.assign(drawing ?? {}, {
    status: 'running',
    done: Array.from({ length: done }, (_, i) => i),
    items: done,
    activeMs: 10_000,
    since: at,
  });
  state.status = 'running';
  return record;
}

/** Puts records where a gateway looks for them. */
export function writeRecords(root: string, records: readonly RunRecord[]): void {
  for (const record of records) {
    const folder = join(root, record.runId);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'run.json'), serializeRecord(record));
  }
}

function exampleConfig(name: string, iterations: number): RunConfig {
  return parseRunConfig(
    {
      name,
      model: '/models/stable-diffusion-v1-5',
      data: { path: '/data/pick-a-pic' },
      iterations,
      train: { steps: 500, batch_size: 32 },
      sampling: { steps: 50, shard_size: 1 },
      ...(iterations > 1 && {
        evaluation: {
          prompts: '/data/prompts.txt',
          metrics: ['pick', 'clip'].map((metric) => ({
            name: metric,
            kind: 'clip',
            model: `/models/${metric}`,
          })),
        },
        sampling: { steps: 50, shard_size: 16 },
      }),
    },
    'config',
  );
}

function recordOf(
  runId: string,
  config: RunConfig,
  { rows, at }: { rows: number; at: number },
): RunRecord {
  const plan = planOf(config, runId, rows, { all: config.evaluation ? 200 : 0, select: 0 });
  const state: RunState = initialState(plan, at);
  return {
    schemaVersion: stateSchemaVersion,
    version: 1,
    runId,
    config,
    resolution: 512,
    manifest: blob,
    prompts: config.evaluation ? blob : null,
    stamped: true,
    trace: {},
    state,
  };
}
