/** Writes a run's report and images into its folder; a second call leaves the same bytes. */
import { mkdir, readdir, readFile, realpath, rm } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, resolve, sep } from 'node:path';
import { SpindleError, writeFileAtomic } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import type { ArtifactRef, ModelEvaluation, WriteReportRequest } from '@spindle/proto';
import { reportHtml, type GridRow } from './domain/html.js';
import { reportMarkdown } from './domain/markdown.js';
import {
  metadataLines,
  reportJson,
  scoreLines,
  type ModelReport,
  type Report,
} from './domain/report.js';
import { evaluate, readImages, reported, type Evaluation, type JudgedModel } from './evaluate.js';
import { readRun } from './run-data.js';

/** Relative to src and dist alike. */
const stylesheet = new URL('../assets/report.css', import.meta.url);
const gridPrompts = 16;
// What a browser opens without complaint; larger images mean fewer rows.
const gridBytes = 16 * 1024 * 1024;
const nothingChosen = { chosen: null, chosenInSets: [], scores: [] };
const modelName = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;

export async function writeReport(
  request: WriteReportRequest,
  store: ArtifactStore,
  root: string,
): Promise<{ files: string[]; models: JudgedModel[] }> {
  const { models } = request;
  const directory = await reportFolder(request.directory, root);
  for (const { model } of models) {
    if (!modelName.test(model))
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `models: expected a name of letters, digits, ".", "_" and "-", got "${model}"`,
      );
  }
  const { run, config } = readRun(request.run);
  const shown = models.map((model) => ({ ...model, items: reported(model, model.items) }));
  // A run without held-out prompts still has curves, timings and settings to show.
  const evaluation: Evaluation =
    models.length === 0
      ? { ...{ models: [], judges: {}, best: [], warnings: [] }, ...nothingChosen }
      : await evaluate(models, store, run.averageMetrics);
  const judged = evaluation.models;
  const images = await Promise.all(
    models.map(async (model) => reported(model, await readImages(model, store))),
  );
  const reports: ModelReport[] = [];
  const files: string[] = [];
  for (const [position, model] of shown.entries()) {
    const written = await writeImages(directory, model, images[position] ?? [], store);
    files.push(...written.files);
    reports.push({
      name: model.model,
      metrics: judged[position]?.metrics ?? [],
      images: written.images,
    });
  }
  const { judges, best, chosen, chosenInSets } = evaluation;
  const report: Report = {
    run: { ...run, warnings: [...run.warnings, ...evaluation.warnings] },
    config,
    models: reports,
    judges,
    best,
    chosen,
    chosenInSets,
  };
  const grid = await readGrid(shown, images, store);
  for (const [name, text] of [
    ['report.json', reportJson(report)],
    ['report.md', reportMarkdown(report)],
    ['report.html', reportHtml(report, grid, await readFile(stylesheet, 'utf8'))],
    ...(judged.some((model) => model.metrics.length > 0)
      ? [['scores.jsonl', scoreLines(imageScores(shown, evaluation))] as const]
      : []),
  ] as const) {
    await writeFileAtomic(join(directory, name), text);
    files.push(name);
  }
  return { files, models: judged };
}

/** A report replaces files and removes images: it has no business outside of the artifacts. */
async function reportFolder(directory: string, root: string): Promise<string> {
  const folder = resolve(directory);
  const below = (path: string, artifacts: string): boolean => path.startsWith(join(artifacts, sep));
  // The caller may reach the same artifacts by another name.
  const inside =
    below(folder, resolve(root)) ||
    below(await realFolder(folder), await realFolder(resolve(root)));
  if (isAbsolute(directory) && inside) return folder;
  throw new SpindleError(
    'INVALID_ARGUMENT',
    `directory: expected an absolute path below the artifacts folder ${resolve(root)}, ` +
      `got "${directory}"`,
  );
}

/** Without links, as far as the path exists. */
async function realFolder(path: string): Promise<string> {
  const real = await realpath(path).catch(() => null);
  if (real !== null || path === dirname(path)) return real ?? path;
  return join(await realFolder(dirname(path)), basename(path));
}

function imageScores(models: readonly ModelEvaluation[], { scores }: Evaluation) {
  return models.map((model, position) => ({
    name: model.model,
    items: model.items.map(({ prompt, category, set }, i) => ({
      prompt: prompt?.index ?? i,
      text: prompt?.prompt ?? '',
      ...{ category, set },
      seed: String(prompt?.seed ?? 0n),
      scores: Object.fromEntries(
        [...(scores[position] ?? [])].map(([metric, values]) => [
          metric,
          values[i]?.value ?? Number.NaN,
        ]),
      ),
    })),
  }));
}

async function writeImages(
  directory: string,
  model: ModelEvaluation,
  refs: readonly ArtifactRef[],
  store: ArtifactStore,
): Promise<{ files: string[]; images: ModelReport['images'] }> {
  const folder = join(directory, 'images', model.model);
  await mkdir(folder, { recursive: true });
  const images = refs.map((_, i) => {
    const prompt = model.items[i]?.prompt;
    return {
      fileName: `${String(i).padStart(4, '0')}.png`,
      text: prompt?.prompt ?? '',
      seed: String(prompt?.seed ?? 0n),
    };
  });
  // A report written with fewer images than the last one must not leave the rest behind.
  const wanted = new Set(images.map((image) => image.fileName));
  for (const name of await readdir(folder))
    if (name.endsWith('.png') && !wanted.has(name)) await rm(join(folder, name));
  for (const [i, ref] of refs.entries()) {
    const path = join(folder, images[i]?.fileName ?? '');
    await writeFileAtomic(path, await store.get(ref));
  }
  await writeFileAtomic(join(folder, 'metadata.jsonl'), metadataLines(images));
  return {
    files: [...images.map((image) => image.fileName), 'metadata.jsonl'].map(
      (name) => `images/${model.model}/${name}`,
    ),
    images,
  };
}

/** The first prompts, as many as fit. */
async function readGrid(
  models: readonly ModelEvaluation[],
  images: readonly (readonly ArtifactRef[])[],
  store: ArtifactStore,
): Promise<GridRow[]> {
  const first = models[0];
  if (first === undefined) return [];
  const rows: GridRow[] = [];
  let bytes = 0;
  for (const [i, item] of first.items.slice(0, gridPrompts).entries()) {
    const refs = models.map((model, position) => {
      const at =
        model.items[i]?.prompt?.index === item.prompt?.index &&
        model.items[i]?.prompt?.seed === item.prompt?.seed
          ? i
          : -1;
      return images[position]?.[at];
    });
    bytes += refs.reduce((total, ref) => total + Number(ref?.bytes ?? 0n), 0);
    if (rows.length > 0 && bytes > gridBytes) break;
    const sources = await Promise.all(
      refs.map(async (ref) =>
        ref === undefined
          ? null
          : `data:image/png;base64,${(await store.get(ref)).toString('base64')}`,
      ),
    );
    rows.push({
      text: item.prompt?.prompt ?? '',
      seed: String(item.prompt?.seed ?? 0n),
      images: sources,
    });
  }
  return rows;
}
