import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { writeSafetensorsFile } from '@spindle/kit';
import { parseJson, stringifyJson, type JsonObject, type JsonValue } from '../files/json.js';
import { readImagePreprocess } from '../judges/clip-preprocess.js';
import { openClipSource } from '../judges/open-clip.js';
import { oddValue } from '../testing/odd-value.js';
import { readTokenizerFiles } from '../text/tokenizer-files.js';
import { clipKeys, clipTextKeys, clipVisionKeys, textEncoderKeys } from './clip.js';
import { everyConfig } from './every-config.js';
import { imageProcessorKeys } from './image-processor.js';
import {
  openClipKeys,
  openClipPreprocessKeys,
  openClipTextKeys,
  openClipVisionKeys,
} from './open-clip.js';
import { stableDiffusionKeys, stableDiffusionXlKeys } from './pipeline.js';
import { checkKeys, ruleOf, type ConfigKeys } from './rules.js';
import { otherSchedulers, schedulerClasses, schedulerKeys } from './schedulers.js';
import { tokenizerKeys } from './tokenizer.js';
import { unetKeys } from './unet.js';
import { vaeKeys } from './vae.js';

const source = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const libraries = JSON.parse(readFileSync(source('../testing/library-keys.json'), 'utf8')) as {
  classes: Record<string, Record<string, string>>;
};
const folders: string[] = [];
afterEach(() => folders.splice(0).forEach((folder) => rmSync(folder, { recursive: true })));

/** A folder like another one, in which some JSON files have other keys. */
function copyWith(from: string, changes: Record<string, JsonObject>): string {
  const folder = mkdtempSync(join(tmpdir(), 'config-keys-'));
  folders.push(folder);
  cpSync(from, folder, { recursive: true, filter: (file) => !file.endsWith('.safetensors') });
  for (const [name, change] of Object.entries(changes)) {
    const file = join(folder, name);
    const own = parseJson(readFileSync(file, 'utf8'), file) as JsonObject;
    writeFileSync(file, stringifyJson({ ...own, ...change }));
  }
  return folder;
}

/** What a reader makes of its input, or its refusal. */
function outcome(work: () => unknown): string {
  try {
    return JSON.stringify(work(), (_key, value: unknown) =>
      value instanceof Map ? [...(value as Map<unknown, unknown>)] : value,
    );
  } catch (error) {
    return (error as Error).message;
  }
}

const tables: Record<string, ConfigKeys> = {
  UNet2DConditionModel: unetKeys,
  AutoencoderKL: vaeKeys,
  StableDiffusionPipeline: stableDiffusionKeys,
  StableDiffusionXLPipeline: stableDiffusionXlKeys,
  ...Object.fromEntries(
    [...schedulerClasses, ...otherSchedulers].map((name) => [name, schedulerKeys(name)]),
  ),
  CLIPTextConfig: textEncoderKeys,
  'CLIPTextConfig of a judge': clipTextKeys,
  CLIPVisionConfig: clipVisionKeys,
  CLIPConfig: clipKeys,
  CLIPTokenizer: tokenizerKeys,
  CLIPImageProcessor: imageProcessorKeys,
  'open_clip.CLIP': openClipKeys,
  'open_clip.CLIPVisionCfg': openClipVisionKeys,
  'open_clip.CLIPTextCfg': openClipTextKeys,
  'open_clip.PreprocessCfg': openClipPreprocessKeys,
};

describe('the tables', () => {
  it.each(Object.entries(tables))('have every key of %s', (name, table) => {
    const keys = Object.keys(libraries.classes[name.replace(/ of .*/, '')] ?? {});
    expect(keys.length).toBeGreaterThan(5);
    expect(keys.filter((key) => ruleOf(table, key) === undefined)).toEqual([]);
  });

  it('have a table for every class whose keys are known', () => {
    expect(Object.keys(libraries.classes).filter((name) => tables[name] === undefined)).toEqual([]);
  });

  it.each(everyConfig.map((table) => [`${table.of}, ${table.file}`, table] as const))(
    'say of %s what is refused, and the check does so by name',
    (_name, table) => {
      for (const [key, rule] of Object.entries(table.keys)) {
        if (rule.kind === 'no effect') expect(rule.why, key).toMatch(/^.{12,}[^.]$/);
        if (rule.kind !== 'refused') continue;
        for (const value of rule.unless)
          expect(checkKeys({ [key]: value }, table, 'x.json'), key).toEqual([]);
        const odd = oddValue(rule.unless);
        const check = (): string[] => checkKeys({ [key]: odd }, table, 'x.json');
        if (rule.by === 'engine') expect(check(), key).toEqual([]);
        else
          expect(check, key).toThrow(
            `x.json: ${key}: expected ${stringifyJson(rule.unless[0] ?? null)}`,
          );
      }
    },
  );

  it('know no keys of objects, and leave the notes of a library alone', () => {
    expect(
      checkKeys(
        { _class_name: 'x', constructor: 1, new_key: 2, sample_size: 8 },
        unetKeys,
        'c.json',
      ),
    ).toEqual([
      'c.json: constructor, new_key: no key of UNet2DConditionModel in diffusers as known here; ' +
        'what it asks for is not done',
    ]);
  });
});

/** Every key that is read has a change here that a reader answers to. */
function answersTo(
  table: ConfigKeys,
  changes: Record<string, JsonValue>,
  made: (change: JsonObject) => string,
): void {
  const keys = Object.keys(table.keys).filter((key) => table.keys[key]?.kind === 'read');
  expect(Object.keys(changes).sort()).toEqual(keys.sort());
  const own = made({});
  for (const [key, value] of Object.entries(changes))
    expect(made({ [key]: value }), key).not.toBe(own);
}

const fixture = source('../../../../test/fixtures/tokenizer');
const judge = source('../../../../examples/scenes/tiny-pickscore');

describe('what is read changes what comes of it', () => {
  it('in tokenizer_config.json', () => {
    const token = 'red</w>';
    const change = {
      ...Object.fromEntries(
        ['bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token', 'cls_token'].map(
          (name) => [name, token],
        ),
      ),
      mask_token: token,
      additional_special_tokens: [token],
      extra_special_tokens: [token],
      model_specific_special_tokens: { red_token: token },
      added_tokens_decoder: { '600': { content: '<|red|>' } },
      model_max_length: 16,
      max_len: 16,
    };
    // The other file would decide: it says the same.
    const bare = copyWith(fixture, {});
    writeFileSync(join(bare, 'special_tokens_map.json'), '{}');
    writeFileSync(join(bare, 'tokenizer_config.json'), '{}');
    answersTo(tokenizerKeys, change, (each) =>
      outcome(() => readTokenizerFiles(copyWith(bare, { 'tokenizer_config.json': each }))),
    );
  });

  it('in preprocessor_config.json', () => {
    const change = {
      size: 80,
      crop_size: 80,
      image_mean: [0, 0, 0],
      image_std: [1, 1, 1],
      rescale_factor: 0.00392,
      resample: 2,
    };
    answersTo(imageProcessorKeys, change, (each) =>
      outcome(() => readImagePreprocess(copyWith(judge, { 'preprocessor_config.json': each }), 64)),
    );
  });

  it('in open_clip_config.json', () => {
    const folder = mkdtempSync(join(tmpdir(), 'open-clip-'));
    folders.push(folder);
    const shapes: Record<string, number[]> = {
      'visual.conv1.weight': [8, 3, 4, 4],
      'visual.positional_embedding': [5, 8],
      'visual.transformer.resblocks.0.ln_1.weight': [8],
      'visual.transformer.resblocks.0.mlp.c_fc.weight': [16, 8],
      'token_embedding.weight': [10, 8],
      positional_embedding: [6, 8],
      'transformer.resblocks.0.ln_1.weight': [8],
      'transformer.resblocks.0.mlp.c_fc.weight': [16, 8],
      text_projection: [8, 8],
    };
    const weights = join(folder, 'open_clip_model.safetensors');
    writeSafetensorsFile(
      weights,
      Object.entries(shapes).map(([name, shape]) => ({
        name,
        dtype: 'F32',
        shape,
        chunks: () => [new Uint8Array(4 * shape.reduce((product, n) => product * n, 1))],
      })),
    );
    const made =
      (part: 'model_cfg' | 'vision_cfg' | 'text_cfg') =>
      (change: JsonObject): string => {
        const model = {
          vision_cfg: { head_width: 4, ...(part === 'vision_cfg' ? change : {}) },
          text_cfg: { heads: 2, ...(part === 'text_cfg' ? change : {}) },
          ...(part === 'model_cfg' ? change : {}),
        };
        writeFileSync(
          join(folder, 'open_clip_config.json'),
          stringifyJson({ model_cfg: model, preprocess_cfg: {} }),
        );
        return outcome(() => openClipSource(weights));
      };
    expect(made('model_cfg')({})).toContain('\\"num_attention_heads\\":2');
    answersTo(openClipKeys, { quick_gelu: true, vision_cfg: 1, text_cfg: 1 }, made('model_cfg'));
    answersTo(openClipVisionKeys, { head_width: 8, image_size: 16 }, made('vision_cfg'));
    answersTo(openClipTextKeys, { heads: 4, context_length: 7 }, made('text_cfg'));
    expect(made('vision_cfg')({ image_size: 16 })).toMatch(/vision_cfg.image_size: expected 8/);
  });
});

it('sizes of images are those of the library where a file does not say them', () => {
  const sized = (change: JsonObject, imageSize = 64): unknown =>
    readImagePreprocess(copyWith(judge, { 'preprocessor_config.json': change }), imageSize);
  // null is the class's own: 224.
  expect(() => sized({ size: null, crop_size: null })).toThrow(
    /crop_size: expected 64x64 \(the model's image_size\), got 224x224/,
  );
  expect(sized({ size: null, crop_size: null }, 224)).toMatchObject({ resize: 224 });
  expect(sized({ size: 64, crop_size: 64 })).toMatchObject({ resize: 64, cropHeight: 64 });
  expect(() => sized({ size: { shortest_edge: 64, longest_edge: 80 } })).toThrow(/size: expected/);
  expect(() => sized({ crop_size: { height: 64, width: 64, depth: 1 } })).toThrow(/crop_size: exp/);
  for (const change of [{ use_square_size: true }, { default_to_square: true }, { do_pad: true }])
    expect(() => sized(change)).toThrow(/expected false/);
  expect(() => sized({ image_processor_type: 'SiglipImageProcessor' })).toThrow(
    /image_processor_type: expected "CLIPImageProcessor"/,
  );
});

it('a tokenizer that pads or cuts on the left, or leaves special tokens alone, is refused', () => {
  for (const change of [
    { padding_side: 'left' },
    { truncation_side: 'left' },
    { split_special_tokens: true },
  ])
    expect(() =>
      readTokenizerFiles(copyWith(fixture, { 'tokenizer_config.json': change })),
    ).toThrow(/tokenizer_config\.json: \w+: expected (false|"right") \(other values/);
  const folder = copyWith(fixture, {});
  const { vocab } = {
    vocab: JSON.parse(readFileSync(join(folder, 'vocab.json'), 'utf8')) as object,
  };
  const whole = (more: object): string =>
    JSON.stringify({ model: { type: 'BPE', vocab, merges: [] }, ...more });
  writeFileSync(join(folder, 'tokenizer.json'), whole({ padding: { direction: 'Left' } }));
  expect(() => readTokenizerFiles(folder)).toThrow(
    /tokenizer\.json: padding\.direction: expected "Right" .* got "Left"/,
  );
  writeFileSync(join(folder, 'tokenizer.json'), whole({ padding: { direction: 'Right' }, new: 1 }));
  expect(readTokenizerFiles(folder).warnings).toEqual([
    expect.stringMatching(/tokenizer\.json: new: no key of CLIPTokenizer in transformers/),
  ]);
});
