/**
 * What the configs in examples/ name, as stand-ins: models of the released shapes without weights,
 * as many images and rows as the configs' words say, with next to nothing in them.
 */
import { releases, writeRandomModel, type Release } from '@spindle/models';
import { cpSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import sharp from 'sharp';
import { root } from './child.js';
import { writeHollowJudges } from './hollow-judges.js';

const models: Readonly<Record<Release, string>> = {
  sd15: 'stable-diffusion-v1-5',
  sd21: 'stable-diffusion-2-1',
  sdxl: 'stable-diffusion-xl-base-1.0',
};
/** What the configs call "some 200 images". */
const images = 200;
const sides = [
  [48, 64],
  [64, 48],
  [64, 64],
] as const;

/** Names of the configs in examples/ itself, without ".yaml". */
export const exampleNames = readdirSync(join(root, 'examples'))
  .filter((name) => name.endsWith('.yaml'))
  .map((name) => basename(name, '.yaml'))
  .sort();

/** Copies the configs to `folder` and puts beside them what they name. */
export async function layOutExamples(folder: string): Promise<void> {
  for (const name of exampleNames)
    cpSync(join(root, 'examples', `${name}.yaml`), join(folder, `${name}.yaml`));
  for (const release of releases)
    writeRandomModel(join(folder, models[release]), {
      release,
      reduced: false,
      dtype: 'F32',
      variant: undefined,
      shardBytes: Number.POSITIVE_INFINITY,
      seed: 0,
      hollow: true,
    });
  mkdirSync(join(folder, 'judges'));
  writeHollowJudges(join(folder, 'judges'));
  await writeOwnImages(join(folder, 'my-images'));
  writeFileSync(
    join(folder, 'my-prompts.txt'),
    Array.from({ length: 20 }, (_, n) => `a thing of kind ${n} on a table\n`).join(''),
  );
  const pickapic = join(folder, 'pickapic_v2/data');
  mkdirSync(pickapic, { recursive: true });
  const fixtures = join(root, 'services/data/fixtures');
  cpSync(join(fixtures, 'pickapic-rows.parquet'), join(pickapic, 'train-00000-of-00001.parquet'));
  cpSync(join(fixtures, 'prompts-500.parquet'), join(pickapic, 'test_unique.parquet'));
  cpSync(
    join(fixtures, 'prompts-validation-500.parquet'),
    join(pickapic, 'validation_unique.parquet'),
  );
  // As many prompts as the released files have.
  const numbered = (what: string, count: number): string[] =>
    Array.from({ length: count }, (_, n) => `${what} number ${n}`);
  const prompts = join(folder, 'prompts');
  mkdirSync(prompts);
  const parti = numbered('a parti prompt', 1632).map((prompt) => `${prompt}\tAnimals`);
  writeFileSync(join(prompts, 'PartiPrompts.tsv'), ['Prompt\tCategory', ...parti, ''].join('\n'));
  const styles = ['anime', 'concept-art', 'paintings', 'photo'];
  const hpsv2 = styles.map((style) => [style, numbered(`a prompt of ${style}`, 800)]);
  writeFileSync(join(prompts, 'hpsv2.json'), JSON.stringify(Object.fromEntries(hpsv2)));
}

async function writeOwnImages(folder: string): Promise<void> {
  mkdirSync(folder);
  const pictures = await Promise.all(
    sides.map(([height, width]) =>
      sharp({ create: { height, width, channels: 3, background: '#c66' } })
        .png()
        .toBuffer(),
    ),
  );
  for (let n = 0; n < images; n++) {
    const name = join(folder, String(n).padStart(3, '0'));
    writeFileSync(`${name}.png`, pictures[n % pictures.length] ?? '');
    writeFileSync(`${name}.txt`, `my thing, seen from side ${n}`);
  }
}
