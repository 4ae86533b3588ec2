import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { headFiles, judgeFiles } from '../judges/judge-files.js';
import { pipelineFiles, unetFiles } from './model-files.js';

const scenes = fileURLToPath(new URL('../../../../examples/scenes/', import.meta.url));
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'spindle-files-'));
  cpSync(join(scenes, 'tiny-sd'), join(root, 'sd'), { recursive: true });
});
afterEach(() => rmSync(root, { recursive: true }));

const names = (files: readonly string[], base = root) =>
  files.map((file) => relative(base, file)).sort();

it('lists what a pipeline is read from, part by part, and no other file', () => {
  for (const name of ['notes.txt', 'unet/pytorch_model.bin', 'vae/model.ckpt'])
    writeFileSync(join(root, 'sd', name), 'x');
  expect(names(unetFiles(join(root, 'sd/unet')))).toEqual([
    'sd/unet/config.json',
    'sd/unet/diffusion_pytorch_model.safetensors',
  ]);
  expect(names(pipelineFiles(join(root, 'sd')))).toEqual([
    'sd/model_index.json',
    'sd/scheduler/scheduler_config.json',
    'sd/text_encoder/config.json',
    'sd/text_encoder/model.safetensors',
    'sd/tokenizer/merges.txt',
    'sd/tokenizer/special_tokens_map.json',
    'sd/tokenizer/tokenizer_config.json',
    'sd/tokenizer/vocab.json',
    'sd/vae/config.json',
    'sd/vae/diffusion_pytorch_model.safetensors',
  ]);
});

it('takes the weights that loading takes: of a variant, else the plain ones', () => {
  writeFileSync(join(root, 'sd/unet/diffusion_pytorch_model.fp16.safetensors'), 'x');
  expect(names(unetFiles(join(root, 'sd@fp16/unet')))).toEqual([
    'sd/unet/config.json',
    'sd/unet/diffusion_pytorch_model.fp16.safetensors',
  ]);
  expect(names(pipelineFiles(join(root, 'sd@fp16')))).toContain(
    'sd/vae/diffusion_pytorch_model.safetensors',
  );
});

it('lists nothing of what is not there', () => {
  expect(pipelineFiles(join(root, 'none'))).toEqual([]);
  expect(unetFiles(join(root, 'none/unet'))).toEqual([]);
  expect(headFiles(join(root, 'none'))).toEqual([]);
});

it('lists what a judge is read from, its tokenizers too', () => {
  const judge = {
    kind: 'clip' as const,
    clipPath: join(scenes, 'tiny-pickscore'),
    tokenizerPath: '',
    fallbackTokenizerPath: join(root, 'sd/tokenizer'),
  };
  const files = judgeFiles(judge);
  expect(names(files, judge.clipPath)).toEqual(
    expect.arrayContaining(['config.json', 'model.safetensors', 'preprocessor_config.json']),
  );
  expect(names(files)).toContain('sd/tokenizer/vocab.json');
  expect(names(headFiles(join(scenes, 'tiny-aesthetic')), scenes)).toContain(
    'tiny-aesthetic/model.safetensors',
  );
});
