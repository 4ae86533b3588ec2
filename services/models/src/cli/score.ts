/** `spindle-engine score`: judges the images of a folder with metadata.jsonl. */
import { InvalidArgumentError, Option, type Command } from 'commander';
import { basename, join, resolve } from 'node:path';
import { invalid, type NativePrecision, type PreprocessMethod } from '@spindle/native';
import { decodeImageFile, decodedBytesOf, mostDecodedBytes } from '../pipeline/decode-image.js';
import {
  judgeKinds,
  preprocessMethods,
  type JudgeInfo,
  type JudgeKind,
} from '../judges/judge-kinds.js';
import { isObject, parseJson, readText, stringField } from '../files/json.js';
import { loadJudge, type JudgeSpec } from '../judges/loaded-judge.js';
import {
  backendOption,
  integer,
  isaOption,
  jsonOption,
  openEngine,
  precisionOption,
  threadsOption,
  type CliContext,
  type EngineFlags,
} from './options.js';

interface ScoreFlags extends EngineFlags {
  kind: JudgeKind;
  model: string;
  head?: string;
  tokenizer?: string;
  preprocess?: PreprocessMethod;
  scale?: number;
  images: string;
  batch: number;
  precision: NativePrecision;
  json: boolean;
}

interface Row {
  file: string;
  text: string;
}

export function addScore(program: Command, context: CliContext): void {
  program
    .command('score')
    .description(
      'judge images: by CLIP (exp(logit_scale) * cosine with their captions), PickScore, ' +
        'HPSv2, CLIP score, ImageReward, or an aesthetic head',
    )
    .requiredOption(
      '--model <path>',
      "the judge's folder (DIR@fp16: weights of a variant), or its safetensors file " +
        '(open_clip layout, ImageReward)',
    )
    .addOption(new Option('--kind <kind>', 'what the model is').choices(judgeKinds).default('clip'))
    .requiredOption('--images <dir>', 'folder of images with a metadata.jsonl (file_name, text)')
    .option(
      '--head <path>',
      "an aesthetic head on the model's image embedding; with --kind clip both are scored",
    )
    .option('--tokenizer <dir>', "tokenizer folder; default: the model's own")
    .addOption(
      new Option(
        '--preprocess <method>',
        "how images come to the model's size; default: as the kind's own code",
      ).choices(preprocessMethods),
    )
    .option(
      '--scale <x>',
      'what cosines are multiplied by; default: exp(logit_scale) for clip, else 100',
      Number,
    )
    .option('--batch <n>', 'images per call', integer(1), 32)
    .addOption(precisionOption())
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(isaOption())
    .addOption(jsonOption())
    .action((flags: ScoreFlags) => score(flags, context));
}

async function score(flags: ScoreFlags, context: CliContext): Promise<void> {
  if (flags.batch < 1) throw new InvalidArgumentError('--batch: expected at least 1.');
  const rows = readRows(resolve(flags.images));
  const engine = openEngine(context, flags);
  const own: JudgeSpec = {
    kind: flags.kind,
    model: resolve(flags.model),
    tokenizer: flags.tokenizer === undefined ? undefined : resolve(flags.tokenizer),
    preprocess: flags.preprocess,
    scale: flags.scale,
  };
  const head = flags.head === undefined ? undefined : resolve(flags.head);
  // A head beside a CLIP model asks for both numbers.
  const specs: JudgeSpec[] =
    flags.kind === 'aesthetic'
      ? [{ ...own, head }]
      : [own, ...(head === undefined ? [] : [{ ...own, kind: 'aesthetic' as const, head }])];
  const scores: Record<string, number[]> = {};
  const judges: Record<string, JudgeInfo> = {};
  for (const spec of specs) {
    const judge = await loadJudge(engine, spec, flags.precision);
    judges[spec.kind] = judge.info;
    for (const warning of judge.warnings) context.warn(`warning: ${warning}`);
    const values: number[] = (scores[spec.kind] = []);
    for await (const batch of batchesOf(rows, flags.batch)) {
      const images = await Promise.all(batch.map((row) => decodeImageFile(row.file)));
      values.push(
        ...(await judge.score(
          images,
          batch.map((row) => row.text),
        )),
      );
    }
    judge.release();
  }
  print(rows, scores, judges, flags.json, context);
}

/** As many rows as asked for, fewer where their images are large. */
async function* batchesOf(rows: readonly Row[], most: number): AsyncGenerator<Row[], undefined> {
  let batch: Row[] = [];
  let bytes = 0;
  for (const row of rows) {
    const own = await decodedBytesOf(row.file);
    if (batch.length === most || (batch.length > 0 && bytes + own > mostDecodedBytes)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(row);
    bytes += own;
  }
  if (batch.length > 0) yield batch;
}

function readRows(directory: string): Row[] {
  const file = join(directory, 'metadata.jsonl');
  const rows: Row[] = [];
  readText(file)
    // Editors on Windows begin a file with a byte order mark.
    .replace(/^\uFEFF/, '')
    .split('\n')
    .forEach((line, index) => {
      if (line.trim() === '') return;
      const where = `${file}:${index + 1}`;
      const row = parseJson(line, where);
      if (!isObject(row)) throw invalid(where, 'expected a JSON object, got something else');
      const name = stringField(row, 'file_name', where);
      const path = resolve(directory, name);
      if (!path.startsWith(`${directory}/`))
        throw invalid(
          where,
          `file_name: expected a file within the folder, got ${JSON.stringify(name)}`,
        );
      rows.push({ file: path, text: stringField(row, 'text', where) });
    });
  if (rows.length === 0) throw invalid(file, 'expected at least one image, got none');
  return rows;
}

function print(
  rows: readonly Row[],
  scores: Readonly<Record<string, number[]>>,
  judges: Readonly<Record<string, JudgeInfo>>,
  json: boolean,
  context: CliContext,
): void {
  const metrics = Object.entries(scores);
  const summary = Object.fromEntries(metrics.map(([name, values]) => [name, summarise(values)]));
  if (json) {
    const items = rows.map((row, n) => ({
      file_name: basename(row.file),
      text: row.text,
      ...Object.fromEntries(metrics.map(([name, values]) => [name, values[n]])),
    }));
    context.write(JSON.stringify({ n: rows.length, metrics: summary, judges, items }));
    return;
  }
  rows.forEach((row, n) =>
    context.write(
      `${basename(row.file)}  ` +
        metrics.map(([name, values]) => `${name} ${values[n]?.toFixed(4)}`).join('  '),
    ),
  );
  for (const [name, { mean, median }] of Object.entries(summary))
    context.write(
      `${name}: mean ${mean.toFixed(4)}, median ${median.toFixed(4)}, n ${rows.length} ` +
        `(${judges[name]?.variant}; ${judges[name]?.scale})`,
    );
}

function summarise(values: readonly number[]): { mean: number; median: number } {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? 0;
  return {
    mean: values.reduce((total, value) => total + value, 0) / values.length,
    median: sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2,
  };
}
