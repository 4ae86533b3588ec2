import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { RunStatus } from '@spindle/proto';
import { tinyConfig } from '../harness/config.js';
import { scenes } from '../harness/files.js';
import { Mesh } from '../harness/mesh.js';
import { reached } from '../harness/progress.js';

let mesh: Mesh;
let folder: string;
beforeAll(async () => {
  mesh = await Mesh.start();
  folder = mkdtempSync(join(tmpdir(), 'spindle-changed-'));
  for (const name of ['tiny-sd', 'tiny-pickscore', 'tiny-aesthetic'])
    cpSync(join(scenes, name), join(folder, name), { recursive: true });
});
afterAll(async () => {
  await mesh.stop();
  rmSync(folder, { recursive: true });
});

function config() {
  const tiny = tinyConfig();
  const [clip, aesthetic] = tiny.evaluation.metrics;
  const own = (name: string) => join(folder, name);
  return {
    ...tiny,
    model: own('tiny-sd'),
    iterations: 1,
    evaluation: {
      ...tiny.evaluation,
      metrics: [
        { ...clip, model: own('tiny-pickscore') },
        { ...aesthetic, model: own('tiny-pickscore'), head: own('tiny-aesthetic') },
      ],
    },
  };
}

/** Flips a bit of the last weight. */
function change(file: string): () => void {
  const bytes = readFileSync(file);
  const others = Buffer.from(bytes);
  others.writeUInt8(others.readUInt8(others.length - 2) ^ 1, others.length - 2);
  writeFileSync(file, others);
  return () => writeFileSync(file, bytes);
}

it('a run ends with a sentence when a model or a judge changes, and goes on when it is back', async () => {
  await mesh.create(config(), 'changed');
  await reached(mesh.artifacts, 'changed', { results: 'encode', atLeast: 1 });
  await mesh.client.pauseRun({ runId: 'changed' });
  for (const file of [
    'tiny-sd/unet/diffusion_pytorch_model.safetensors',
    'tiny-pickscore/model.safetensors',
  ]) {
    // Both have been noted: the base model is drawn and judged before anything is trained.
    await mesh.client.resumeRun({ runId: 'changed' });
    await reached(mesh.artifacts, 'changed', { results: 'eval-score-base', atLeast: 1 });
    await mesh.client.pauseRun({ runId: 'changed' });
    const back = change(join(folder, file));
    await mesh.client.resumeRun({ runId: 'changed' });
    const failed = await mesh.ended('changed');
    expect(failed.status, file).toBe(RunStatus.FAILED);
    expect(failed.reason).toMatch(`${join(folder, file)}: changed since this run first read it`);
    back();
  }
  await mesh.client.resumeRun({ runId: 'changed' });
  const ended = await mesh.ended('changed');
  expect(ended.status, ended.reason).toBe(RunStatus.SUCCEEDED);
});
