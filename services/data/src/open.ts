/** Finds out what a path holds, and opens it. */
import { SpindleError } from '@spindle/kit';
import { CaptionedFolder, isCaptionedFolder } from './captioned-folder.js';
import { below, folderOf, nameBelow, nameOf, type Files } from './files.js';
import { ImageFolder, metadataNames } from './folder.js';
import { ParquetFile } from './parquet.js';
import { fitsPattern } from './pattern.js';
import { isPickAPic, PickAPic } from './pickapic.js';
import { some, type DataFormat, type DataSource } from './rows.js';
import { CsvTable, ParquetTable } from './table.js';
import { WebDataset } from './webdataset.js';
import { PromptsAndWinners } from './winners.js';

/** What a config says about a data set; paths are absolute or s3:// URLs. */
export interface DataSpec {
  /** A folder, a file, or either with "*" in its last part. */
  path: string;
  format: DataFormat | 'auto';
  imageColumn?: string | undefined;
  rejectedColumn?: string | undefined;
  captionColumn?: string | undefined;
  images?: string | undefined;
}

const suffixes: Readonly<Partial<Record<DataFormat, readonly string[]>>> = {
  webdataset: ['.tar'],
  pickapic: ['.parquet'],
  parquet: ['.parquet'],
  csv: ['.csv', '.tsv'],
  prompts: ['.txt', '.json', '.jsonl', '.ndjson'],
};

/**
 * Keys of a spec that mean something to a format, with their names in a config; a run that ignored
 * one would not be what was asked for.
 */
const keys = {
  imageColumn: 'image_column',
  rejectedColumn: 'rejected_column',
  captionColumn: 'caption_column',
  images: 'images',
} as const;
const meaningful: Readonly<Record<DataFormat, readonly (keyof typeof keys)[]>> = {
  folder: ['imageColumn', 'rejectedColumn', 'captionColumn'],
  captions: ['captionColumn'],
  pickapic: [],
  webdataset: ['imageColumn', 'rejectedColumn', 'captionColumn'],
  parquet: ['imageColumn', 'rejectedColumn', 'captionColumn', 'images'],
  csv: ['imageColumn', 'rejectedColumn', 'captionColumn', 'images'],
  prompts: ['images'],
};

function checkKeys(spec: DataSpec, format: DataFormat): void {
  for (const key of Object.keys(keys) as (keyof typeof keys)[]) {
    const value = spec[key];
    if (value !== undefined && !meaningful[format].includes(key))
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `data.${keys[key]}: expected nothing for a data set of format ${format}, got "${value}".`,
      );
  }
}

/** Throws INVALID_ARGUMENT with a sentence that names the config's key. */
export async function openDataSource(spec: DataSpec, store: Files): Promise<DataSource> {
  const { path, format } = spec;
  const kind = path.includes('*') ? 'pattern' : (await store.find(path))?.kind;
  if (kind === undefined)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `data.path: expected a folder or a file, got "${path}", which does not exist.`,
    );
  const columns = {
    image: spec.imageColumn,
    rejected: spec.rejectedColumn,
    caption: spec.captionColumn,
    images: spec.images,
  };
  const isFolder = format === 'folder' || format === 'captions';
  if (isFolder || (format === 'auto' && kind === 'folder')) {
    if (kind !== 'folder')
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `data.path: expected a folder, got the file "${path}".`,
      );
    for (const name of format === 'captions' ? [] : metadataNames) {
      if ((await store.find(below(path, name)))?.kind !== 'file') continue;
      checkKeys(spec, 'folder');
      return new ImageFolder(store, path, name, columns);
    }
    if (format === 'captions' || (format === 'auto' && (await hasCaptions(spec, store)))) {
      checkKeys(spec, 'captions');
      return new CaptionedFolder(store, path, spec.captionColumn);
    }
    if (format === 'folder')
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `data.path: expected metadata.jsonl or metadata.csv in ${path}, got neither.`,
      );
  }
  const files = kind === 'file' ? [path] : await filesAt(store, path, kind, format);
  const [first] = files;
  if (first === undefined) {
    const wanted =
      format === 'auto'
        ? 'metadata.jsonl or metadata.csv, images with a .txt or .caption file of the same name ' +
          'beside them, or files that end in .tar or .parquet,'
        : `files that end in ${suffixes[format]?.join(' or ')}`;
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `data.path: expected ${wanted} in ${path}, got none of them.`,
    );
  }
  const chosen = format === 'auto' ? await guess(store, first) : format;
  checkKeys(spec, chosen);
  switch (chosen) {
    case 'webdataset':
      return new WebDataset(store, files, columns);
    case 'pickapic':
      return new PickAPic(store, files);
    case 'parquet':
      return new ParquetTable(store, files, columns);
    case 'csv':
      return new CsvTable(store, files, columns);
    case 'prompts':
      if (spec.images === undefined)
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `data.images: expected the folder with an image for every prompt of ${first}, got ` +
            'nothing.',
        );
      if (files.length > 1)
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `data.path: expected one file of prompts, got ${some(files.map(nameOf))}.`,
        );
      return new PromptsAndWinners(store, first, spec.images);
    case 'folder':
    case 'captions':
      throw new SpindleError('INTERNAL', 'an image folder has been opened before');
  }
}

async function hasCaptions({ path, captionColumn }: DataSpec, store: Files): Promise<boolean> {
  const names = (await store.list(path)).map((entry) => nameBelow(path, entry.path));
  return isCaptionedFolder(names, captionColumn);
}

async function filesAt(
  store: Files,
  path: string,
  kind: 'folder' | 'pattern',
  format: DataSpec['format'],
): Promise<string[]> {
  const folder = kind === 'pattern' ? folderOf(path) : path;
  const found = (await store.list(folder)).map((entry) => entry.path);
  const fits = (file: string, ends: readonly string[]): boolean =>
    ends.some((end) => file.toLowerCase().endsWith(end));
  if (kind === 'pattern')
    return found.filter((file) => fitsPattern(nameBelow(folder, file), nameOf(path)));
  const sets =
    format === 'auto' ? ['.tar', '.parquet'].map((end) => [end]) : [suffixes[format] ?? []];
  for (const ends of sets) {
    const files = found.filter((file) => fits(file, ends));
    if (files.length === 0) continue;
    const splits = [
      ...new Set(files.flatMap((file) => /^(.+?)-\d{5}-of-\d{5}/.exec(nameOf(file))?.[1] ?? [])),
    ];
    if (splits.length > 1) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `data.path: expected files of one split in ${path}, got ${splits.join(', ')}; name ` +
          'one, for example ' +
          `${below(path, `${splits.includes('train') ? 'train' : splits[0]}-*`)}.`,
      );
    }
    return files;
  }
  return [];
}

async function guess(store: Files, file: string): Promise<DataFormat> {
  const name = file.toLowerCase();
  if (nameOf(name) === 'metadata.jsonl') {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `data.path: expected the folder of metadata.jsonl, got "${file}".`,
    );
  }
  if (name.endsWith('.parquet'))
    return isPickAPic((await ParquetFile.open(store, file)).columns) ? 'pickapic' : 'parquet';
  for (const format of ['webdataset', 'csv', 'prompts'] as const) {
    if (suffixes[format]?.some((end) => name.endsWith(end))) return format;
  }
  throw new SpindleError(
    'INVALID_ARGUMENT',
    'data.path: expected a folder, or files that end in .tar, .parquet, .csv, .tsv, .txt, ' +
      `.json or .jsonl, got "${file}".`,
  );
}
