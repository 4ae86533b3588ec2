/**
 * The program behind `spindle data inspect`: one argument, a Request in JSON; needs neither engine
 * nor mesh.
 */
import { writeFile } from 'node:fs/promises';
import sharp from 'sharp';
import { ensureError, printable, printableJson, SpindleError } from '@spindle/kit';
import {
  bucketTable,
  ImageReader,
  openDataSource,
  openFiles,
  type BucketSettings,
  type DataSpec,
} from '@spindle/data';
import { decodeImage, readPipeline, refuseUnsupportedImage, type Pipeline } from '@spindle/models';
import { ContactSheet } from './contact-sheet.js';
import { inspectDataSet, type SeenImage } from './inspect.js';
import { describeReport } from './text.js';

interface Request {
  spec: DataSpec;
  /** Pipeline folder whose tokenizer counts tokens. */
  model: string | null;
  limit: number | null;
  /** null: the model's own, or 512. */
  resolution: number | null;
  buckets: BucketSettings | null;
  /** Where the contact sheet goes. */
  sheet: string | null;
  /** Read the images' headers only. */
  quick: boolean;
  json: boolean;
}

const defaultTokens = 77;
const defaultResolution = 512;
const badInput = ['INVALID_ARGUMENT', 'NOT_FOUND', 'FAILED_PRECONDITION', 'RESOURCE_EXHAUSTED'];

/** A side of the images that the model was made for. */
function ownResolution(model: Pipeline | null): number {
  if (model === null) return defaultResolution;
  const { height, width } = model.sampleSize;
  if (height !== width)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `--resolution: expected a number of pixels, since the model's sample_size is ${height}x` +
        `${width}, got nothing`,
    );
  return height * model.vaeScaling.scale;
}

async function run(request: Request): Promise<void> {
  const { signal } = new AbortController();
  const model = request.model === null ? null : readPipeline(request.model);
  const tokenizer = model?.textTowers[0]?.tokenizer ?? null;
  const files = openFiles();
  const reader = new ImageReader(files);
  const sheet = new ContactSheet();
  let told = performance.now();
  const resolution = request.resolution ?? ownResolution(model);
  const report = await inspectDataSet(
    await openDataSource(request.spec, files),
    {
      read: async (row, which) =>
        reader.read(which === 'image' ? row.image : (row.rejected ?? row.image), signal),
      look: async (bytes, where) => {
        // Decoding says all that encoding would say; the header alone is some twenty times faster.
        const image = request.quick
          ? await headerOf(bytes, where)
          : await decodeImage(bytes, where);
        return { width: image.width, height: image.height, format: formatOf(bytes) };
      },
      tokens: tokenizer === null ? null : (caption) => tokenizer.tokenize(caption).length + 2,
      show: async (bytes, row, index) => {
        if (request.sheet === null) return;
        await sheet
          .offer(bytes, { index, position: row.position, caption: row.caption })
          .catch((error: unknown) => {
            // A header that reads well may stand before a picture that does not.
            if (!request.quick) throw error;
          });
      },
      progress: (rows) => {
        if (!process.stderr.isTTY || performance.now() - told < 1000) return;
        told = performance.now();
        process.stderr.write(`\r${rows} rows`);
      },
    },
    {
      limit: request.limit ?? undefined,
      resolution,
      buckets: request.buckets && bucketTable(resolution, request.buckets),
      tokenLimit: model?.textTokens ?? defaultTokens,
    },
  );
  if (process.stderr.isTTY) process.stderr.write('\r');
  const drawn = request.sheet === null ? null : await sheet.render();
  if (drawn && request.sheet !== null) await writeFile(request.sheet, drawn.png);
  const file = drawn ? request.sheet : null;
  process.stdout.write(
    request.json
      ? `${printableJson(JSON.stringify({ ...report, sheet: drawn && { file, cells: drawn.cells } }))}\n`
      : `${printable(describeReport(report, file).join('\n'))}\n`,
  );
  if (report.error !== null) throw new SpindleError('INVALID_ARGUMENT', report.error);
}

async function headerOf(
  bytes: Buffer,
  where: string,
): Promise<Pick<SeenImage, 'width' | 'height'>> {
  refuseUnsupportedImage(bytes, where);
  try {
    const { autoOrient } = await sharp(bytes).metadata();
    return { width: autoOrient.width, height: autoOrient.height };
  } catch (cause) {
    throw Object.assign(
      new Error(`${where}: expected an image, got a header that does not read`, { cause }),
      { code: 'INVALID_ARGUMENT' },
    );
  }
}

/** By the first bytes; the decoder has accepted the rest. */
function formatOf(bytes: Buffer): string {
  const text = bytes.toString('latin1', 0, 12);
  if (text.startsWith('\xff\xd8')) return 'jpeg';
  if (text.startsWith('\x89PNG')) return 'png';
  if (text.startsWith('RIFF') && text.endsWith('WEBP')) return 'webp';
  if (text.startsWith('GIF8')) return 'gif';
  if (text.startsWith('II*') || text.startsWith('MM\0*')) return 'tiff';
  return text.slice(4, 8) === 'ftyp' ? 'avif' : 'other';
}

// The S3 client's notice about future versions of Node is not for whoever looks at a data set.
process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] ??= 'true';
try {
  await run(JSON.parse(process.argv[2] ?? '{}') as Request);
} catch (thrown) {
  const error = ensureError(thrown);
  process.stderr.write(`spindle: ${error.message}\n`);
  process.exitCode = badInput.includes(error.code) ? 2 : 1;
}
