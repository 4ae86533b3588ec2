/**
 * Any parquet or CSV file with a column of chosen images and one of captions. Images are bytes,
 * {bytes, path}, or paths.
 */
import { realpath } from 'node:fs/promises';
import { SpindleError } from '@spindle/kit';
import { askedColumn, captionNames, captionOf, checkedCaption, usualColumn } from './columns.js';
import { readCsvRows } from './csv.js';
import { folderOf, isRemote, nameOf, type Files } from './files.js';
import { inside } from './folder.js';
import { ParquetFile } from './parquet.js';
import { Prompts } from './prompts.js';
import { shownColumns } from './shown.js';
import { Skipped, type DataRow, type DataSource, type ImageRef } from './rows.js';

export interface TableColumns {
  image?: string | undefined;
  rejected?: string | undefined;
  caption?: string | undefined;
  /** Folder that paths of images are relative to; the file's own without it. */
  images?: string | undefined;
}

const imageColumns = [
  'image',
  'jpg',
  'png',
  'file_name',
  'image_path',
  'file_path',
  'path',
  'chosen',
];

interface Names {
  image: string;
  caption: string;
  rejected: string | undefined;
}

abstract class Table implements DataSource {
  abstract readonly format: 'parquet' | 'csv';
  readonly skipped = new Skipped();
  readonly warnings: string[] = [];

  constructor(
    readonly store: Files,
    readonly files: readonly string[],
    readonly columns: TableColumns,
  ) {}

  abstract rows(): AsyncIterable<DataRow>;

  /** The columns, as messages may name them. */
  protected abstract shown(columns: readonly string[]): string;

  protected names(path: string, columns: readonly string[]): Names {
    const { image, caption, rejected } = this.columns;
    const pick = (key: string, asked: string | undefined, usual: readonly string[]): string => {
      const found = asked === undefined ? usualColumn(usual, columns) : askedColumn(asked, columns);
      if (found !== undefined) return found;
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${key}: expected one of the columns of ${path} (${this.shown(columns)}), got ` +
          `${asked === undefined ? 'nothing, and none has a usual name' : `"${asked}"`}.`,
      );
    };
    return {
      image: pick('data.image_column', image, imageColumns),
      caption: pick('data.caption_column', caption, captionNames),
      rejected: rejected === undefined ? undefined : pick('data.rejected_column', rejected, []),
    };
  }

  protected async root(path: string): Promise<string> {
    const folder = this.columns.images ?? folderOf(path);
    return isRemote(folder) ? folder : realpath(folder);
  }
}

export class ParquetTable extends Table {
  readonly format = 'parquet';

  protected shown(columns: readonly string[]): string {
    return columns.join(', ');
  }

  async *rows(): AsyncIterable<DataRow> {
    const prompts = new Prompts();
    for (const path of this.files) {
      const file = await ParquetFile.open(this.store, path);
      const names = this.names(path, file.columns);
      const wanted = [names.image, ...(names.rejected === undefined ? [] : [names.rejected])];
      for (const column of wanted) {
        if (file.kindOf(column) === 'other')
          throw new SpindleError(
            'INVALID_ARGUMENT',
            `${path}: ${column}: expected images as bytes, as {bytes, path} or as paths, got ` +
              'another type.',
          );
      }
      // Only paths are read here; bytes stay where they are.
      const paths = wanted.filter((column) => file.kindOf(column) === 'text');
      const root = paths.length > 0 ? await this.root(path) : '';
      for (let group = 0; group + 1 < file.groups.length; group++) {
        const start = file.groups[group] ?? 0;
        for (const [i, row] of (await file.readGroup(group, [names.caption, ...paths])).entries()) {
          const position = `${nameOf(path)}:${start + i}`;
          const caption = captionOf(row[names.caption], `${position}: ${names.caption}`);
          if (caption === null) {
            this.skipped.add('no caption', position);
            continue;
          }
          const refOf = async (column: string): Promise<ImageRef | undefined> => {
            if (!paths.includes(column)) {
              const images = this.columns.images;
              return {
                kind: 'cell',
                file: path,
                row: start + i,
                column,
                ...(images !== undefined && { images }),
              };
            }
            const name = row[column];
            if (typeof name !== 'string' || name === '') return undefined;
            return { kind: 'file', file: await inside(root, name, position, column) };
          };
          const image = await refOf(names.image);
          const rejected = names.rejected === undefined ? undefined : await refOf(names.rejected);
          if (image === undefined) this.skipped.add('no image', position);
          else if (names.rejected !== undefined && rejected === undefined)
            this.skipped.add('no rejected image', position);
          else {
            prompts.add(caption);
            yield { key: position, caption, image, ...(rejected && { rejected }), position };
          }
        }
      }
    }
    this.warnings.push(...prompts.warnings());
  }
}

export class CsvTable extends Table {
  readonly format = 'csv';

  protected shown(columns: readonly string[]): string {
    return shownColumns(columns);
  }

  async *rows(): AsyncIterable<DataRow> {
    const prompts = new Prompts();
    for (const path of this.files) {
      const root = await this.root(path);
      const header: { names?: Names } = {};
      for await (const { row, line } of readCsvRows(this.store, path, (columns) => {
        header.names = this.names(path, columns);
      })) {
        const position = `${nameOf(path)}:${line}`;
        const { names } = header;
        const image = names && row[names.image];
        const rejected = names?.rejected === undefined ? undefined : row[names.rejected];
        if (!names || !image) this.skipped.add('no image', position);
        else if (names.rejected !== undefined && !rejected)
          this.skipped.add('no rejected image', position);
        else {
          const caption = checkedCaption(row[names.caption] ?? '', `${path}:${line}`);
          prompts.add(caption);
          yield {
            key: position,
            caption,
            image: {
              kind: 'file',
              file: await inside(root, image, `${path}:${line}`, names.image),
            },
            ...(rejected && {
              rejected: {
                kind: 'file',
                file: await inside(root, rejected, `${path}:${line}`, names.rejected),
              },
            }),
            position,
          };
        }
      }
    }
    this.warnings.push(...prompts.warnings());
  }
}
