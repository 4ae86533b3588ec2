/** What a finished run left in its folder, as far as a comparison needs it. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseConfig, SpindleError } from '@spindle/kit';
import { z } from 'zod';

const judgeSchema = z.object({
  kind: z.string(),
  files: z.array(z.object({ name: z.string(), digest: z.string() })),
  variant: z.string(),
  scale: z.string(),
  preprocess: z.string(),
});

const reportSchema = z.object({
  run_id: z.string(),
  best_model: z.string().default(''),
  models: z.array(z.object({ name: z.string() })).default([]),
  judges: z.record(z.string(), judgeSchema).default({}),
  config: z.record(z.string(), z.unknown()).default({}),
});

const lineSchema = z.object({
  model: z.string(),
  prompt: z.string(),
  category: z.string().default(''),
  scores: z.record(z.string(), z.number()),
});

export type Judge = z.output<typeof judgeSchema>;

export interface ImageScores {
  prompt: string;
  category: string;
  seed: bigint;
  scores: Record<string, number>;
}

export interface RunFiles {
  runId: string;
  bestModel: string;
  models: string[];
  judges: Record<string, Judge>;
  config: Record<string, unknown>;
  /** By model. */
  images: Map<string, ImageScores[]>;
}

/** `name` is what the person called the run. */
export async function readRunFiles(folder: string, name: string): Promise<RunFiles> {
  const text = async (file: string): Promise<string> =>
    readFile(join(folder, file), 'utf8').catch(() => {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `run "${name}": expected ${join(folder, file)}, got no such file; runs leave it when ` +
          'they have succeeded and were judged.',
      );
    });
  const file = join(folder, 'report.json');
  const report = parseConfig(reportSchema, parseJson(await text('report.json'), file), file);
  const images = new Map<string, ImageScores[]>();
  for (const [i, line] of (await text('scores.jsonl')).split('\n').entries()) {
    if (line === '') continue;
    const where = `${join(folder, 'scores.jsonl')}:${i + 1}`;
    const { model, ...image } = parseConfig(lineSchema, parseJson(line, where), where);
    // A seed has 64 bits, more than a number of JavaScript holds.
    const seed = /"seed":(\d+)/.exec(line)?.[1];
    if (seed === undefined)
      throw new SpindleError('INVALID_ARGUMENT', `${where}: seed: expected a number, got none.`);
    const list = images.get(model) ?? [];
    list.push({ ...image, seed: BigInt(seed) });
    images.set(model, list);
  }
  return {
    runId: report.run_id,
    bestModel: report.best_model,
    models: report.models.map((model) => model.name),
    judges: report.judges,
    config: report.config,
    images,
  };
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${where}: expected JSON, got text that does not parse.`,
    );
  }
}
