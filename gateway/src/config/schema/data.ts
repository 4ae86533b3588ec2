/** `data`: the real images and their captions. */
import { dataFormats } from '@spindle/data';
import { z } from 'zod';
import { positiveInt } from './values.js';

export const bucketsSchema = z.strictObject({
  step: positiveInt
    .max(1024)
    .default(64)
    .describe(
      'Pixels of which sides are multiples. The VAE and the U-Net must halve such sides ' +
        'evenly: for Stable Diffusion 1.x and 2.x it is a multiple of 64, for XL of 32; ' +
        'data.resolution must be a multiple of it.',
    ),
  max_ratio: z
    .number()
    .gt(1)
    .max(16)
    .default(2)
    .describe('Longer side by shorter one, at most; what is beyond it is cut to the last size.'),
});

export const dataSchema = z
  .strictObject({
    path: z
      .string()
      .min(1)
      .describe(
        'A folder or a file, local or s3://bucket/…, "*" allowed in its last part: a Hugging ' +
          'Face image folder (metadata.jsonl or metadata.csv with file_name and text), ' +
          'WebDataset tar shards, parquet files (Pick-a-Pic, or any), a CSV or TSV file, or a ' +
          'file of prompts (with data.images).',
      ),
    format: z
      .enum(['auto', ...dataFormats])
      .default('auto')
      .describe('What lies there; "auto" tells by the names of the files and by the columns.'),
    image_column: z
      .string()
      .min(1)
      .optional()
      .describe(
        'parquet, CSV, metadata of a folder: column with the (chosen) image, as bytes or as a ' +
          'path; WebDataset: suffix of its members ("chosen.jpg"). Default: the first usual name.',
      ),
    rejected_column: z
      .string()
      .min(1)
      .optional()
      .describe('The same for the image that was not preferred. Default: none.'),
    caption_column: z
      .string()
      .min(1)
      .optional()
      .describe(
        'Column with the caption; WebDataset: suffix of its members, or key in their .json; ' +
          'captions: suffix of their files. Default: the first usual name.',
      ),
    images: z
      .string()
      .min(1)
      .optional()
      .describe(
        "Folder of images: what paths in a table are relative to (default: the table's own " +
          "folder), or the image of every prompt of a file of prompts, named by the prompt's " +
          'number from 0.',
      ),
    resize: z
      .enum(['bilinear', 'bicubic', 'lanczos'])
      .default('bilinear')
      .describe(
        'Filter that brings the shorter side to the resolution, antialiased; the papers use ' +
          'bilinear.',
      ),
    crop: z
      .enum(['center', 'random'])
      .default('center')
      .describe("Which square, or part of a bucket's size, of the resized image is taken."),
    buckets: bucketsSchema
      .optional()
      .describe(
        'Aspect-ratio buckets instead of squares: every image, and what is drawn against it, ' +
          'has the size whose aspect ratio is nearest to its own, of about resolution² pixels ' +
          'and never more. Default: off.',
      ),
    flip: z
      .boolean()
      .default(false)
      .describe(
        'Mirror images left to right at random, both of a pair alike; needs ' +
          'sampling.generated "pixels".',
      ),
    views: positiveInt
      .max(64)
      .default(1)
      .describe(
        'Differently cropped and mirrored copies of every image, which take turns by epoch; ' +
          'each is encoded and stored.',
      ),
    limit: positiveInt.optional().describe('Use only the first so many rows.'),
    resolution: positiveInt
      .max(4096)
      .optional()
      .describe("Pixels per side; images are resized and cropped to it. Default: the model's own."),
  })
  .describe('The real images and their captions.');
