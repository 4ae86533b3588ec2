import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { modelPath } from '@spindle/kit';
import { runConfigSchema } from '../config/schema.js';
import { openAsFolder, copyParts } from './copy-parts.js';

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

describe('a link in a model folder', () => {
  it('that stays inside of it, or in the blobs of its snapshot, is copied as a file', async () => {
    const inner = pipeline('linked', files);
    symlinkSync('config.json', join(inner, 'vae/same.json'));
    await copyParts(inner, join(scratch, 'linked-copy'));
    expect(readFileSync(join(scratch, 'linked-copy/vae/same.json'), 'utf8')).toBe(
      'vae/config.json',
    );
    const hub = pipeline('models--me--mine', ['blobs/0123', 'snapshots/abc/vae/config.json']);
    const snapshot = join(hub, 'snapshots/abc');
    symlinkSync('../../blobs/0123', join(snapshot, 'model_index.json'));
    await copyParts(snapshot, join(scratch, 'hub-copy'));
    const copied = join(scratch, 'hub-copy/model_index.json');
    expect(lstatSync(copied).isFile()).toBe(true);
    expect(readFileSync(copied, 'utf8')).toBe('blobs/0123');
  });

  it.each([
    ['file', 'vae/notes.txt', 'private/key'],
    ['folder', 'vae/more', 'private'],
    ['file of another model of the cache', 'README.md', 'models--other/blobs/1'],
    ['file that is not there', 'vae/none', 'nothing/here'],
  ])(
    'that leads out of it to a %s is refused by name, and nothing is copied',
    async (what, link, target) => {
      const outside = pipeline(`outside ${what}`, ['private/key', 'models--other/blobs/1']);
      const folder = pipeline(`leaking ${what}`, files);
      symlinkSync(join(outside, target), join(folder, link));
      const to = join(scratch, `leaked ${what}`);
      await expect(copyParts(folder, to)).rejects.toMatchObject({
        code: 'FAILED_PRECONDITION',
        message: expect.stringContaining(
          `${join(folder, link)}: expected a file of the model, got a link that leads out of its ` +
            `folder to ${join(outside, target)}`,
        ) as string,
      });
      expect(existsSync(to)).toBe(false);
    },
  );

  it('is followed where that is asked for, and the U-Net is no part of what is copied', async () => {
    const outside = pipeline('elsewhere', ['vae/config.json', 'unet/secret']);
    const folder = pipeline('assembled', ['model_index.json']);
    for (const part of ['vae', 'unet']) symlinkSync(join(outside, part), join(folder, part));
    const to = join(scratch, 'assembled-copy');
    await copyParts(folder, to, { followLinks: true });
    expect(readdirSync(to).sort()).toEqual(['model_index.json', 'vae']);
    expect(readFileSync(join(to, 'vae/config.json'), 'utf8')).toBe('vae/config.json');
  });
});

it('a copy of what the mesh keeps for itself is open to those to whom its folder is', async () => {
  const folder = pipeline('kept', ['unet/config.json']);
  const [inner, file] = [join(folder, 'unet'), join(folder, 'unet/config.json')];
  chmodSync(file, 0o600);
  chmodSync(inner, 0o700);
  chmodSync(folder, 0o750);
  await openAsFolder(folder);
  expect(statSync(file).mode & 0o777).toBe(0o640);
  expect(statSync(inner).mode & 0o777).toBe(0o750);
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
