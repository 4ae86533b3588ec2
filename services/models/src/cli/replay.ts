/**
 * Replays the fixture kinds that cross the TypeScript side: tokenizer, image_preprocess, pipeline.
 */
import { join, resolve } from 'node:path';
import { clipMean, clipStd } from '../judges/clip-preprocess.js';
import {
  type Engine,
  invalid,
  type NativePrecision,
  type ParityLineDto,
  type TensorDto,
} from '@spindle/native';
import { decodeImageFile } from '../pipeline/decode-image.js';
import {
  describe,
  isObject,
  numberField,
  stringField,
  stringifyJson,
  type JsonObject,
  type JsonValue,
} from '../files/json.js';
import { checkSchedulerClass } from '../pipeline/scheduler.js';
import { TextToImage } from '../pipeline/text-to-image.js';
import { ClipTokenizer } from '../text/tokenizer.js';
import { compare, toleranceOf, type Fixture, type Tolerance } from './fixture.js';
import { readExpected, type ExpectedTensor } from './expected.js';

export interface ReplayOptions {
  precision: NativePrecision;
  /** Takes the place of a pipeline fixture's own model. */
  model: string | undefined;
}

export function replay(
  fixture: Fixture,
  openEngine: () => Engine,
  options: ReplayOptions,
): Promise<ParityLineDto[]> {
  switch (fixture.kind) {
    case 'tokenizer':
      return Promise.resolve(replayTokenizer(fixture));
    case 'image_preprocess':
      return replayImagePreprocess(fixture, openEngine());
    case 'pipeline':
      return replayPipeline(fixture, openEngine(), options);
    default:
      throw invalid(
        join(fixture.directory, 'fixture.json'),
        `kind: expected one that is replayed here, got ${fixture.kind}`,
      );
  }
}

function cases(fixture: Fixture, key: string): JsonValue[] {
  const list = fixture.json[key];
  if (!Array.isArray(list))
    throw invalid(
      join(fixture.directory, 'fixture.json'),
      `${key}: expected a list, got ${describe(list)}`,
    );
  return list;
}

function caseObject(fixture: Fixture, value: JsonValue, index: number): JsonObject {
  if (!isObject(value))
    throw invalid(
      join(fixture.directory, 'fixture.json'),
      `cases[${index}]: expected an object, got ${describe(value)}`,
    );
  return value;
}

function line(
  fixture: Fixture,
  tensor: string,
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: Tolerance,
): ParityLineDto {
  return {
    fixture: fixture.directory,
    kind: fixture.kind,
    tensor,
    ...compare(got, expected, tolerance),
  };
}

function take(expected: Map<string, ExpectedTensor>, name: string, fixture: Fixture): Float32Array {
  const tensor = expected.get(name);
  if (tensor === undefined)
    throw invalid(
      join(fixture.directory, 'expected.safetensors'),
      `expected a tensor ${name}, got none`,
    );
  return tensor.data;
}

function replayTokenizer(fixture: Fixture): ParityLineDto[] {
  const file = join(fixture.directory, 'fixture.json');
  const tokenizer = ClipTokenizer.load(fixture.directory);
  const maxLength = numberField(fixture.json, 'max_length', file);
  return cases(fixture, 'cases').map((value, index) => {
    const entry = caseObject(fixture, value, index);
    const ids = entry['ids'];
    const numbers = Array.isArray(ids) ? ids.filter((id) => typeof id === 'number') : [];
    if (!Array.isArray(ids) || numbers.length !== ids.length)
      throw invalid(file, `cases[${index}].ids: expected a list of numbers, got ${describe(ids)}`);
    const got = tokenizer.encode(
      stringField(entry, 'text', `${file}: cases[${index}]`),
      maxLength,
    ).ids;
    return line(fixture, `${index}.ids`, got, numbers, { relL2: 0, maxAbs: 0 });
  });
}

async function replayImagePreprocess(fixture: Fixture, engine: Engine): Promise<ParityLineDto[]> {
  const file = join(fixture.directory, 'fixture.json');
  const size = numberField(fixture.json, 'size', file);
  // There is one precision here: preprocessing is float32 whatever the model's.
  const tolerance = toleranceOf(fixture, 'float32');
  const expected = readExpected(join(fixture.directory, 'expected.safetensors'));
  const lines: ParityLineDto[] = [];
  for (const [index, name] of cases(fixture, 'images').entries()) {
    if (typeof name !== 'string')
      throw invalid(file, `images[${index}]: expected a file name, got ${describe(name)}`);
    const image = await decodeImageFile(join(fixture.directory, name));
    const got = engine.preprocessImage(image, {
      resize: size,
      cropHeight: size,
      cropWidth: size,
      mean: clipMean,
      std: clipStd,
      method: 'transformers',
      filter: 'bicubic',
      rescale: 1 / 255,
    });
    const tensor = `${index}.pixel_values`;
    lines.push(line(fixture, tensor, got, take(expected, tensor, fixture), tolerance));
  }
  return lines;
}

/** What a case of image to image starts from. */
function imageLatents(fixture: Fixture, name: string): TensorDto {
  const file = join(fixture.directory, 'inputs.safetensors');
  const tensor = readExpected(file).get(name);
  if (tensor === undefined) throw invalid(file, `expected a tensor ${name}, got none`);
  return tensor;
}

async function replayPipeline(
  fixture: Fixture,
  engine: Engine,
  options: ReplayOptions,
): Promise<ParityLineDto[]> {
  const file = join(fixture.directory, 'fixture.json');
  const tolerance = toleranceOf(fixture, options.precision);
  const expected = readExpected(join(fixture.directory, 'expected.safetensors'));
  const directory =
    options.model ?? resolve(fixture.directory, stringField(fixture.json, 'model', file));
  const model = await TextToImage.load(engine, directory, options.precision);
  const unet = await engine.loadUnet(model.pipeline.unet, options.precision);
  const lines: ParityLineDto[] = [];
  try {
    for (const [index, value] of cases(fixture, 'cases').entries()) {
      const entry = caseObject(fixture, value, index);
      const where = `${file}: cases[${index}]`;
      const className = stringField(entry, 'scheduler_class', where);
      checkSchedulerClass(className, where);
      const config = entry['scheduler_config'];
      if (!isObject(config))
        throw invalid(where, `scheduler_config: expected an object, got ${describe(config)}`);
      const strength = entry['strength'];
      const { latents } = await model.latents(
        unet,
        [stringField(entry, 'prompt', where)],
        [BigInt(numberField(entry, 'seed', where))],
        {
          schedulerConfig: stringifyJson({ ...config, _class_name: className }),
          steps: numberField(entry, 'steps', where),
          guidanceScale: numberField(entry, 'guidance_scale', where),
          eta: numberField(entry, 'eta', where, 0),
          height: 0,
          width: 0,
          batchSize: 1,
          ...(strength !== undefined && {
            from: {
              latents: imageLatents(fixture, `${index}.image_latents`),
              strength: numberField(entry, 'strength', where),
            },
          }),
        },
      );
      lines.push(
        line(
          fixture,
          `${index}.latents`,
          latents.data,
          take(expected, `${index}.latents`, fixture),
          tolerance,
        ),
      );
      const image = await model.decode(latents, 1);
      lines.push(
        line(
          fixture,
          `${index}.image`,
          image.data,
          take(expected, `${index}.image`, fixture),
          tolerance,
        ),
      );
    }
  } finally {
    unet.release();
    model.release();
  }
  return lines;
}
