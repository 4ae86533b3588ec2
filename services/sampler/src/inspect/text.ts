/** An inspection in words. */
import { sizeName } from '@spindle/data';
import type { InspectReport } from './inspect.js';
import type { Summary } from './counter.js';

export function describeReport(report: InspectReport, sheet: string | null): string[] {
  const { images, buckets, captions, duplicates } = report;
  const formats = Object.entries(images.formats).map(([name, count]) => `${count} ${name}`);
  const lost = report.rows - report.usable;
  return [
    `${report.format}: ${report.rows} rows in ${report.files} ` +
      `${report.files === 1 ? 'file' : 'files'}, ${report.usable} ` +
      `usable${lost > 0 ? `, ${lost} rejected` : ''}${report.pairs > 0 ? `, ${report.pairs} with a rejected image` : ''}.`,
    ...report.skipped.map(
      ({ reason, count, first }) => `left out: ${count} × ${reason} (${list(first, count)}).`,
    ),
    ...report.rejected.map(
      ({ reason, count, first }) => `rejected: ${count} × ${reason} (${list(first, count)}).`,
    ),
    ...(report.usable === 0
      ? []
      : [
          `images: ${formats.join(', ')}; ${(images.bytes / 1e6).toFixed(1)} MB; width ` +
            `${range(images.width)}, height ${range(images.height)}, width / height ` +
            `${range(images.aspect)}.`,
          ...(images.smaller > 0
            ? [
                `images: ${images.smaller} are smaller than the training resolution and would ` +
                  'be enlarged.',
              ]
            : []),
        ]),
    ...(buckets === null
      ? []
      : [
          'buckets: ' +
            `${buckets.map((bucket) => `${sizeName(bucket)} × ${bucket.images}`).join(', ')}.`,
        ]),
    'captions: ' +
      `${captions.tokens === null ? `${range(captions.characters)} characters (tokens are counted with --model)` : `${range(captions.tokens)} tokens, ${captions.over} over ${captions.limit}`}; ` +
      `${captions.empty} empty.`,
    `duplicates: ${duplicates.captions} rows repeat a caption (${duplicates.distinctCaptions} ` +
      `distinct), ${duplicates.images} repeat an image (${duplicates.distinctImages} distinct).`,
    ...report.warnings.map((warning) => `warning: ${warning}`),
    ...(sheet === null ? [] : [`contact sheet: ${sheet}`]),
    `read in ${report.seconds.toFixed(1)} s.`,
  ];
}

function range({ least, median, p95, most }: Summary): string {
  return least === most ? `${least}` : `${least} to ${most} (median ${median}, 95 % up to ${p95})`;
}

function list(first: string[], count: number): string {
  return `${first.join(', ')}${count > first.length ? ', …' : ''}`;
}
