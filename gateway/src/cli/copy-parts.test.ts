import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { modelPath } from '@spindle/kit';
import { runConfigSchema } from '../config/schema.js';
import { copyParts } from './copy-parts.js';

const scratch = mkdtempSync(join(tmpdir(), 'parts-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** Every file holds its own name. */
function pipeline(name: string, files: string[]): string {
  const folder = join(scratch, name);
  for (const file of files) {
    mkdirSync(join(folder, file, '..'), { recursive: true });
    writeFileSync(join(folder, file), file);
  }
  return folder;
}

const files = [
  'model_index.json',
  'unet/diffusion_pytorch_model.safetensors',
  'vae/config.json',
  'vae/diffusion_pytorch_model.safetensors',
  'vae/diffusion_pytorch_model.fp16.safetensors',
  'text_encoder/model-00001-of-00002.safetensors',
  'text_encoder/model-00002-of-00002.safetensors',
  'text_encoder/model.safetensors.index.json',
  'text_encoder/model.fp16-00001-of-00001.safetensors',
  'text_encoder/model.safetensors.index.fp16.json',
  'text_encoder_2/model.safetensors',
];

describe('copyParts', () => {
  it('copies all but the U-Net', async () => {
    const to = join(scratch, 'plain-copy');
    await copyParts(pipeline('plain', files), to);
    expect(readdirSync(to).sort()).toEqual([
      'model_index.json',
      'text_encoder',
      'text_encoder_2',
      'vae',
    ]);
    expect(readdirSync(join(to, 'vae'))).toHaveLength(3);
  });

  it("gives a variant's weights the plain names, where a part has them", async () => {
    const to = join(scratch, 'fp16-copy');
    await copyParts(`${pipeline('both', files)}@fp16`, to);
    expect(readdirSync(join(to, 'vae')).sort()).toEqual([
      'config.json',
      'diffusion_pytorch_model.safetensors',
    ]);
    expect(readFileSync(join(to, 'vae/diffusion_pytorch_model.safetensors'), 'utf8')).toBe(
      'vae/diffusion_pytorch_model.fp16.safetensors',
    );
    expect(readdirSync(join(to, 'text_encoder')).sort()).toEqual([
      'model.fp16-00001-of-00001.safetensors',
      'model.safetensors.index.json',
    ]);
    expect(readFileSync(join(to, 'text_encoder_2/model.safetensors'), 'utf8')).toBe(
      'text_encoder_2/model.safetensors',
    );
  });
});

describe('a variant of a model', () => {
  const read = (model: unknown) => runConfigSchema.parse({ model, data: { path: './d' } }).model;

  it('may be said in two ways, which are the same', () => {
    expect(read({ path: './sd15/', variant: 'fp16' })).toBe('./sd15@fp16');
    expect(read(read({ path: './sd15', variant: 'fp16' }))).toBe('./sd15@fp16');
    expect(() => read({ path: './sd15', variant: 'a/b' })).toThrow();
    expect(() => read({ path: './sd15', flavour: 'fp16' })).toThrow();
  });

  it('is no part of the name of a folder that is there', () => {
    const folder = pipeline('me@home', ['model_index.json']);
    expect(modelPath(folder)).toEqual({ directory: folder, variant: undefined });
    expect(modelPath(`${folder}@fp16`)).toEqual({ directory: folder, variant: 'fp16' });
    expect(modelPath('./@scope/model')).toEqual({
      directory: './@scope/model',
      variant: undefined,
    });
  });
});
