import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { releaseConfigs, releases } from '../released/configs.js';
import type { JsonObject, JsonValue } from './json.js';
import { floats, writeModelJson } from './model-json.js';

it('writes floats as 1.0, integers as 1, and what JSON has no words for as Python does', () => {
  const folder = mkdtempSync(join(tmpdir(), 'model-json-'));
  const file = join(folder, 'config.json');
  writeModelJson(file, {
    initializer_factor: 1,
    attention_dropout: 0,
    layer_norm_eps: 1e-5,
    hidden_size: 8,
    image_mean: [0, 0.5, 1],
    lambda_min_clipped: -Infinity,
    text_config: { dropout: 0, vocab_size: 3 },
    name: 'initializer_factor',
  });
  const text = readFileSync(file, 'utf8');
  rmSync(folder, { recursive: true });
  expect(text).toBe(`{
  "initializer_factor": 1.0,
  "attention_dropout": 0.0,
  "layer_norm_eps": 0.00001,
  "hidden_size": 8,
  "image_mean": [
    0.0,
    0.5,
    1.0
  ],
  "lambda_min_clipped": -Infinity,
  "text_config": {
    "dropout": 0.0,
    "vocab_size": 3
  },
  "name": "initializer_factor"
}
`);
});

const { classes } = JSON.parse(
  readFileSync(fileURLToPath(new URL('../testing/library-keys.json', import.meta.url)), 'utf8'),
) as { classes: Record<string, Record<string, string>> };

/** Alternatives of a type as Python writes it, without those in brackets. */
function alternatives(type: string): string[] {
  return type.replace(/\[.*?\]/g, '').split(' | ');
}

it('knows every float of the libraries, and no integer for one', () => {
  for (const [name, keys] of Object.entries(classes)) {
    if (name.startsWith('open_clip')) continue;
    for (const [key, type] of Object.entries(keys)) {
      const float = alternatives(type).includes('float') || /(list|tuple)\[float/.test(type);
      const integer = alternatives(type).includes('int');
      if (float !== integer && (float || integer)) expect(floats.has(key), key).toBe(float);
    }
  }
});

/** Whether a value of JSON is of a type as the libraries declare it; types that say more: true. */
function isOf(type: string, value: JsonValue, key: string): boolean {
  const kinds = alternatives(type);
  if (type === '' || kinds.some((kind) => !/^(int|float|bool|str|None)$/.test(kind))) return true;
  if (value === null) return kinds.includes('None');
  if (typeof value === 'boolean') return kinds.includes('bool');
  if (typeof value === 'string') return kinds.includes('str');
  if (typeof value !== 'number') return false;
  const written = Number.isInteger(value) && !floats.has(key) ? 'int' : 'float';
  return kinds.includes(written);
}

it.each(releases)(
  'writes configs of %s whose values are of the types of the libraries',
  (release) => {
    for (const reduced of [false, true]) {
      const { unet, vae, textEncoders, scheduler } = releaseConfigs(release, reduced);
      const configs: [string, JsonObject][] = [
        ['UNet2DConditionModel', unet],
        ['AutoencoderKL', vae],
        [scheduler['_class_name'] as string, scheduler],
        ...textEncoders.map((config): [string, JsonObject] => ['CLIPTextConfig', config]),
      ];
      for (const [name, config] of configs) {
        const types = classes[name] ?? {};
        const wrong = Object.entries(config).filter(
          ([key, value]) => !isOf(types[key] ?? '', value, key),
        );
        expect(wrong, name).toEqual(
          // The released file says so: null is false in Python.
          name === 'UNet2DConditionModel' && release === 'sdxl' ? [['upcast_attention', null]] : [],
        );
        expect(Object.keys(types).length, name).toBeGreaterThan(5);
      }
    }
  },
);
