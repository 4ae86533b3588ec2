/**
 * What a data set holds and what is wrong with it, found by reading all of it as encoding would.
 */
import { createHash } from 'node:crypto';
import { ensureError } from '@spindle/kit';
import {
  describeRef,
  nearestSize,
  Prompts,
  type DataRow,
  type DataSource,
  type ImageSize,
} from '@spindle/data';
import { Counter, type Summary } from './counter.js';

/** An image as far as it was looked at. */
export interface SeenImage {
  width: number;
  height: number;
  format: string;
}

export interface InspectPorts {
  read(row: DataRow, which: 'image' | 'rejected'): Promise<Buffer>;
  /** Throws INVALID_ARGUMENT for what encoding would reject. */
  look(bytes: Buffer, where: string): Promise<SeenImage>;
  /** Tokens of a caption, begin and end included; null without a tokenizer. */
  tokens: ((caption: string) => number) | null;
  /** Called with images that may go onto the contact sheet. */
  show(bytes: Buffer, row: DataRow, index: number): Promise<void>;
  progress(rows: number): void;
}

export interface Reasons {
  reason: string;
  count: number;
  /** The first few, by position in the data set. */
  first: string[];
}

export interface InspectReport {
  format: string;
  files: number;
  /** Rows with an image and a caption, rejected ones included. */
  rows: number;
  /** Rows that encoding will take. */
  usable: number;
  /** Rows with an image that was not preferred. */
  pairs: number;
  /** Rows that the format leaves out: ties, rows without a label, an image or a caption. */
  skipped: Reasons[];
  /** Rows whose image cannot be used. */
  rejected: Reasons[];
  /** The first of them one by one, with the whole message. */
  rejectedRows: { position: string; message: string }[];
  images: {
    bytes: number;
    formats: Record<string, number>;
    width: Summary;
    height: Summary;
    aspect: Summary;
    smaller: number;
  };
  /**
   * Usable images by the size that buckets bring them to, from the most upright to the widest; null
   * without buckets.
   */
  buckets: { width: number; height: number; images: number }[] | null;
  captions: {
    empty: number;
    characters: Summary;
    tokens: Summary | null;
    limit: number;
    over: number;
  };
  duplicates: {
    captions: number;
    distinctCaptions: number;
    images: number;
    distinctImages: number;
  };
  warnings: string[];
  /**
   * Why reading ended before the data set did, or what a run would refuse it for; null when all is
   * well.
   */
  error: string | null;
  seconds: number;
}

export interface InspectOptions {
  limit: number | undefined;
  /** Images with a shorter side below this would be enlarged. */
  resolution: number;
  /** Tokens that the text encoder takes. */
  tokenLimit: number;
  /** Aspect-ratio buckets; null: none are asked for. */
  buckets: readonly ImageSize[] | null;
}

const together = 8;
/** Rejected rows that a report lists one by one. */
const mostRows = 1000;

export async function inspectDataSet(
  source: DataSource,
  ports: InspectPorts,
  options: InspectOptions,
): Promise<InspectReport> {
  const started = performance.now();
  const found = new Findings(ports, options);
  let batch: DataRow[] = [];
  let rows = 0;
  const flush = async (): Promise<void> => {
    // Looked at side by side, counted in order: the report does not depend on timing.
    for (const seen of await Promise.all(batch.map((row) => look(row, ports))))
      await found.add(seen);
    ports.progress(rows);
    batch = [];
  };
  let error: string | null = null;
  try {
    for await (const row of source.rows()) {
      batch.push(row);
      rows += 1;
      if (batch.length === together) await flush();
      if (rows === options.limit) break;
    }
  } catch (thrown) {
    const fault = ensureError(thrown);
    // What was found until then is worth telling.
    if (fault.code !== 'INVALID_ARGUMENT' || rows === 0) throw fault;
    error = fault.message;
  }
  await flush();
  const skipped = [...source.skipped.reasons].map(([reason, entry]) => ({ reason, ...entry }));
  return {
    format: source.format,
    files: source.files.length,
    rows,
    ...found.report(),
    skipped,
    warnings: [...source.warnings],
    error,
    seconds: (performance.now() - started) / 1000,
  };
}

type Seen = { row: DataRow } & ({ bytes: Buffer; image: SeenImage } | { reason: string });

async function look(row: DataRow, ports: InspectPorts): Promise<Seen> {
  try {
    const bytes = await ports.read(row, 'image');
    const image = await ports.look(bytes, describeRef(row.image));
    if (row.rejected)
      await ports.look(await ports.read(row, 'rejected'), describeRef(row.rejected));
    return { row, bytes, image };
  } catch (thrown) {
    const error = ensureError(thrown);
    if (error.code !== 'INVALID_ARGUMENT') throw error;
    return { row, reason: error.message };
  }
}

class Findings {
  readonly #rejected = new Map<string, { count: number; first: string[] }>();
  readonly #rows: { position: string; message: string }[] = [];
  readonly #formats = new Map<string, number>();
  readonly #width = new Counter();
  readonly #height = new Counter();
  readonly #aspect = new Counter();
  readonly #characters = new Counter();
  readonly #tokens = new Counter();
  readonly #captions = new Prompts();
  readonly #digests = new Prompts();
  readonly #buckets = new Map<ImageSize, number>();
  #count = 0;
  #usable = 0;
  #pairs = 0;
  #bytes = 0;
  #smaller = 0;
  #empty = 0;

  constructor(
    readonly ports: InspectPorts,
    readonly options: InspectOptions,
  ) {}

  async add(seen: Seen): Promise<void> {
    const { row } = seen;
    const index = this.#count++;
    this.#caption(row.caption);
    if (row.rejected) this.#pairs += 1;
    if ('reason' in seen) {
      this.#reject(row, seen.reason);
      return;
    }
    this.#usable += 1;
    this.#bytes += seen.bytes.length;
    const { width, height, format } = seen.image;
    this.#formats.set(format, (this.#formats.get(format) ?? 0) + 1);
    this.#width.add(width);
    this.#height.add(height);
    this.#aspect.add(Math.round((width / height) * 100) / 100);
    if (Math.min(width, height) < this.options.resolution) this.#smaller += 1;
    if (this.options.buckets) {
      const size = nearestSize(this.options.buckets, seen.image);
      this.#buckets.set(size, (this.#buckets.get(size) ?? 0) + 1);
    }
    this.#digests.add(createHash('sha1').update(seen.bytes).digest('base64'));
    await this.ports.show(seen.bytes, row, index);
  }

  #caption(caption: string): void {
    if (caption.trim() === '') this.#empty += 1;
    this.#captions.add(caption);
    this.#characters.add(Array.from(caption).length);
    if (this.ports.tokens) this.#tokens.add(this.ports.tokens(caption));
  }

  /** Reasons are grouped without the file's name before and the details in brackets behind. */
  #reject(row: DataRow, message: string): void {
    const reason = message.replace(/^.*?: (?=expected)/, '').replace(/ \(.*$/, '');
    if (this.#rows.length < mostRows) this.#rows.push({ position: row.position, message });
    const entry = this.#rejected.get(reason) ?? { count: 0, first: [] };
    entry.count += 1;
    if (entry.first.length < 5) entry.first.push(row.position);
    this.#rejected.set(reason, entry);
  }

  report(): Omit<
    InspectReport,
    'format' | 'files' | 'rows' | 'skipped' | 'warnings' | 'error' | 'seconds'
  > {
    return {
      usable: this.#usable,
      pairs: this.#pairs,
      rejectedRows: this.#rows,
      rejected: [...this.#rejected].map(([reason, entry]) => ({ reason, ...entry })),
      images: {
        bytes: this.#bytes,
        formats: Object.fromEntries([...this.#formats].sort(([a], [b]) => (a < b ? -1 : 1))),
        width: this.#width.summary(),
        height: this.#height.summary(),
        aspect: this.#aspect.summary(),
        smaller: this.#smaller,
      },
      buckets:
        this.options.buckets?.map((size) => ({
          width: size.width,
          height: size.height,
          images: this.#buckets.get(size) ?? 0,
        })) ?? null,
      captions: {
        empty: this.#empty,
        characters: this.#characters.summary(),
        tokens: this.ports.tokens ? this.#tokens.summary() : null,
        limit: this.options.tokenLimit,
        over: this.#tokens.above(this.options.tokenLimit),
      },
      duplicates: {
        captions: this.#captions.repeated,
        distinctCaptions: this.#captions.distinct,
        images: this.#digests.repeated,
        distinctImages: this.#digests.distinct,
      },
    };
  }
}
