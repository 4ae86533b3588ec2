/**
 * The rows that a run trains on: every one is checked and written to the run's manifest, and what
 * is left out is named.
 */
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { SpindleError } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import {
  manifestLine,
  openDataSource,
  type DataFormat,
  type DataSource,
  type DataSpec,
  type Files,
} from '@spindle/data';
import type { RunConfig } from '../config/schema.js';

export interface DataSet extends AsyncDisposable {
  rows: number;
  /** Rows with a rejected image; 0 unless they were asked for. */
  pairs: number;
  /** JSON lines, one per row; gone once this is disposed of. */
  manifest: string;
  /**
   * One sentence per kind of problem that is no error: rows left out, empty captions, long
   * captions.
   */
  warnings: string[];
}

export function dataSpec(data: RunConfig['data']): DataSpec {
  return {
    path: data.path,
    format: data.format,
    imageColumn: data.image_column,
    rejectedColumn: data.rejected_column,
    captionColumn: data.caption_column,
    images: data.images,
  };
}

export interface DataSetOptions {
  limit?: number | undefined;
  textTokens: number;
  /** Keep rejected images. */
  pairs: boolean;
  /** Prompts of the evaluation: those that are captions too are counted. */
  heldOut: readonly string[];
}

export async function readDataSet(
  spec: DataSpec,
  deps: { files: Files; store: Pick<ArtifactStore, 'tempDir'> },
  options: DataSetOptions,
): Promise<DataSet> {
  const source = await openDataSource(spec, deps.files);
  const folder = await deps.store.tempDir();
  const dispose = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    const counts = {
      rows: 0,
      pairs: 0,
      empty: 0,
      long: 0,
      heldOut: alike(options.heldOut),
      seen: new Set<string>(),
    };
    const manifest = join(folder, 'manifest.jsonl');
    await pipeline(Readable.from(linesOf(source, options, counts)), createWriteStream(manifest));
    if (counts.rows === 0) {
      const why = [...source.skipped.reasons]
        .map(([reason, { count }]) => `${count} × ${reason}`)
        .join(', ');
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `data.path: ${spec.path}: expected at least one row, got none${why && ` (${why})`}.`,
      );
    }
    const { rows, pairs } = counts;
    return {
      rows,
      pairs,
      manifest,
      warnings: warningsOf(source, options, counts),
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** Rows past the limit are checked as well where that takes no reading of large files. */
const readWhole: ReadonlySet<DataFormat> = new Set<DataFormat>(['folder', 'csv', 'prompts']);

interface Counts {
  rows: number;
  pairs: number;
  empty: number;
  long: number;
  /** Held-out prompts by what `plain` writes, and those of them that are captions. */
  heldOut: ReadonlyMap<string, string>;
  seen: Set<string>;
}

async function* linesOf(
  source: DataSource,
  options: DataSetOptions,
  counts: Counts,
): AsyncIterable<string> {
  for await (const row of source.rows()) {
    if (counts.rows === options.limit) {
      if (readWhole.has(source.format)) continue;
      return;
    }
    counts.rows += 1;
    if (row.caption.trim() === '') counts.empty += 1;
    if (counts.heldOut.size > 0) {
      const text = plain(row.caption);
      if (counts.heldOut.has(text)) counts.seen.add(text);
    }
    if (isLong(row.caption, options.textTokens)) counts.long += 1;
    const { rejected, ...alone } = row;
    if (options.pairs && rejected) counts.pairs += 1;
    yield manifestLine(options.pairs && rejected ? row : alone);
  }
}

function warningsOf(source: DataSource, options: DataSetOptions, counts: Counts): string[] {
  const warnings = [...source.warnings];
  for (const [reason, { count, first }] of source.skipped.reasons)
    warnings.push(
      `data: ${count} rows are not used (${reason}): ` +
        `${first.join(', ')}${count > first.length ? ', …' : ''}.`,
    );
  const seen = [...counts.heldOut].flatMap(([text, prompt]) =>
    counts.seen.has(text) ? [prompt] : [],
  );
  if (seen.length > 0)
    warnings.push(
      `evaluation.prompts: ${seen.length} of ${counts.heldOut.size} prompts are training captions too, so ` +
        `scores say less about new prompts: ${quoted(seen)}.`,
    );
  if (counts.empty > 0) warnings.push(`data: ${counts.empty} captions are empty.`);
  if (counts.long > 0)
    warnings.push(
      `data: at least ${counts.long} captions are longer than the text encoder's ` +
        `${options.textTokens} tokens; they will be cut.`,
    );
  if (options.limit !== undefined && options.limit > counts.rows)
    warnings.push(
      `data.limit: ${options.limit} rows were asked for, the data set has ${counts.rows}.`,
    );
  return warnings;
}

/** At least so many will be cut. */
export function longTexts(texts: string[], textTokens: number): number {
  return texts.filter((text) => isLong(text, textTokens)).length;
}

/**
 * Every word is at least one token; begin and end take two. The exact count is known once the text
 * is encoded.
 */
function isLong(text: string, textTokens: number): boolean {
  const room = textTokens - 2;
  return room > 0 && text.trim().split(/\s+/).length > room;
}

/** Texts by what is compared of them; each once. */
function alike(prompts: readonly string[]): Map<string, string> {
  return new Map(prompts.map((prompt) => [plain(prompt), prompt]));
}

/** CLIP's tokenizer sees neither case nor runs of spaces. */
function plain(text: string): string {
  return text.trim().replace(/\s+/g, ' ').toLowerCase();
}

/** The first few, each cut to a length that a warning can hold. */
function quoted(texts: readonly string[]): string {
  const shown = texts.slice(0, 3).map((text) => JSON.stringify(text.slice(0, 60)));
  return shown.join(', ') + (texts.length > shown.length ? ', …' : '');
}
