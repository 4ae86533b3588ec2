import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { layers, top } from '../architecture/cpp-rules.js';
import { readSources, readWorkspaces } from '../architecture/sources.js';
import { parsePage, type Page } from './markdown.js';
import { listFiles, readFacts } from './repository.js';
import {
  checkColumns,
  checkLinks,
  checkMentions,
  checkPage,
  layersOf,
  type Facts,
} from './rules.js';

/** Names that docs may use and no source has, with the reason. */
const foreign = [
  // diffusers' function.
  'save_pretrained',
  // The op that docs/ADDING.md adds.
  ...['SoftplusForward', 'SoftplusBackward'],
  // Models and data sets that docs/TUTORIAL.md names by owner.
  'stable-diffusion-v1-5/stable-diffusion-v1-5',
  ...['yuvalkirstain/pickapic_v2', 'pickapic_v2/data/test_unique.parquet'],
  ...['prompts/PartiPrompts.tsv', 'google-research/parti', 'prompts/hpsv2.json', 'ymhao/HPDv2'],
  ...['yuvalkirstain/PickScore_v1', 'xswu/HPSv2', 'openai/clip-vit-large-patch14'],
  'laion/CLIP-ViT-H-14-laion2B-s32B-b79K',
];

/** Of the environment; cmake's own (-DSPINDLE_…) are another matter. */
function variables(text: string): Set<string> {
  return new Set(text.match(/(?<![\w-]|-D)SPINDLE_[A-Z_]+\b/g) ?? []);
}

const root = fileURLToPath(new URL('../..', import.meta.url));
const files = listFiles(root);
const facts = readFacts(root, files, foreign);
const pages = files
  .filter((path) => path.endsWith('.md'))
  .map((path) => parsePage(path, readFileSync(join(root, path), 'utf8')));

describe('the docs', () => {
  test.each(pages.map((page) => [page.path, page] as const))('%s', (path, page) => {
    // Generated from the schema, whose descriptions are checked where they are written; history
    // may name what is gone, and notes beside fixtures are wrapped as their tables need it.
    const isLinksOnly = path === 'CHANGELOG.md' || path === 'docs/CONFIG.md';
    const rules = isLinksOnly ? checkLinks : checkPage;
    expect(rules(page, pages, facts)).toEqual([]);
  });

  test('are there where sources name them', () => {
    const named = readSources(
      root,
      ['proto', 'services', 'gateway', 'native-cuda', 'scripts'],
      /\w$/,
    )
      .filter(({ path }) => /\.(ts|mjs|proto|h|cc|cu|inl|txt)$/.test(path))
      .flatMap((file) => checkMentions(file, pages));
    expect(named).toEqual([]);
  });

  test('have every variable of the environment', () => {
    const folders = ['services', 'gateway', 'scripts', 'native-cuda', 'test/harness'];
    const text = pages.flatMap(({ prose, fences }) => [
      ...prose,
      ...fences.flatMap((f) => f.lines),
    ]);
    const documented = variables(text.map((line) => line.text).join('\n'));
    const missing = readSources(root, folders, /\.(ts|mjs)$/)
      .flatMap((file) => [...variables(file.text)].map((name) => ({ name, path: file.path })))
      .filter(({ name }) => !documented.has(name));
    expect(missing).toEqual([]);
  });

  test('name every package with its folder', () => {
    const design = readFileSync(join(root, 'docs/DESIGN.md'), 'utf8');
    const missing = readWorkspaces(root)
      .map(({ name, folder }) => `\`${name}\` (\`${folder}\`)`)
      .filter((entry) => !design.includes(`- ${entry}: `));
    expect(missing).toEqual([]);
  });

  test('have the layers that the architecture test holds', () => {
    const design = pages.find(({ path }) => path === 'docs/DESIGN.md');
    expect(design && layersOf(design)).toEqual({
      chain: layers.filter((layer) => layer !== 'top'),
      tops: top,
    });
  });
});

describe('each broken line is named', () => {
  const small: Facts = {
    paths: new Set(['docs/A.md', 'docs', 'engine/kernels/kernels.h', 'engine/kernels']),
    words: new Set(['keepWeight', 'Kernels', 'keep_weight']),
    scripts: new Set(['check']),
    commands: new Set(['run']),
    projects: new Set(['unit']),
    foreign: new Set(['torch_name']),
  };
  const broken = (text: string) => {
    const page = parsePage('docs/A.md', text);
    return checkPage(page, [page], small).map(({ edge }) => edge.replace(/^[^>]*-> /, ''));
  };

  test.each<[string, string[]]>([
    ['[a](B.md)', ['B.md']],
    ['[a](A.md) [b](https://x.y/z)', []],
    ['# One *two*\n\n[a](#one-two) [b](#three)', ['#three']],
    ['`kernels/kernels.h`, `kernels/kernels`, `kernels/`', []],
    ['`kernels/other.h`', ['kernels/other.h']],
    ['`kernel.h`', ['kernel.h']],
    ['`Kernels::keep_weight`, `keepWeight()`, `torch_name`', []],
    [
      '`Kernels::drop`, `dropWeight`, `drop_weight`',
      ['Kernels::drop', 'dropWeight', 'drop_weight'],
    ],
    ['a span `that\nis wrapped`, `lost_\nname`, `lost_name`', ['lost_name']],
    ['`npm run check`, `npm run chekc`', ['npm run chekc']],
    ['```sh\nnpx spindle run x\nnpx spindle rnu x\n```', ['npx spindle rnu']],
    ['```sh\nnpx vitest --project unit\nnpx vitest --project uint\n```', ['--project uint']],
    ['```sh\nnode scripts/gone.mjs\n```', ['scripts/gone.mjs']],
  ])('%j', (text, expected) => {
    expect(broken(text)).toEqual(expected);
  });

  test('a comment that names a page or a heading that is not there', () => {
    const page = parsePage('docs/A.md', '# One thing');
    const mentions = (text: string) => checkMentions({ path: 'x.ts', text }, [page]).length;
    expect(mentions('// docs/A.md, "One thing"; docs/A.md\n')).toBe(0);
    expect(mentions('// docs/A.md, "Another"\n')).toBe(1);
    expect(mentions('// docs/B.md\n')).toBe(1);
  });

  test('long lines, but for what cannot be broken', () => {
    const columns = (text: string) => checkColumns(parsePage('A.md', text)).length;
    expect(columns('x'.repeat(101))).toBe(1);
    expect(columns(`| ${'x'.repeat(139)}`)).toBe(1);
    expect(columns(`| ${'x'.repeat(138)}`)).toBe(0);
    expect(columns(`[x](${'x'.repeat(101)})`)).toBe(0);
    expect(columns(`\`\`\`\n${'x'.repeat(101)}\n\`\`\``)).toBe(1);
  });

  test('a picture of layers is read from the bottom to what tops it', () => {
    const picture = (edges: string): Page =>
      parsePage('A.md', `\`\`\`mermaid\nflowchart TD\n${edges}\n\`\`\``);
    expect(layersOf(picture('  c --> b\n  b --> a\n  d --> b'))).toEqual({
      chain: ['a', 'b'],
      tops: ['c', 'd'],
    });
    expect(layersOf(picture('  c -->|"x"| b'))).toBeUndefined();
  });
});
