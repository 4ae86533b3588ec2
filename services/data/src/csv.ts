/** RFC 4180: quoted fields, doubled quotes, line breaks inside quotes; read piece by piece. */
import { SpindleError } from '@spindle/kit';
import type { Files } from './files.js';
import { longestLine } from './limits.js';
import { textChunks } from './text.js';

export interface CsvRecord {
  fields: string[];
  /** Line on which the record begins, from 1. */
  line: number;
}

class CsvParser {
  #fields: string[] = [];
  #field = '';
  #quoted = false;
  /** A quote inside a quoted field: its end, or the first half of a doubled one. */
  #quote = false;
  #carriage = false;
  #line = 1;
  #begin = 1;
  /** Characters of the record so far. */
  #length = 0;

  constructor(
    readonly file: string,
    readonly separator: string,
  ) {}

  *push(text: string): Iterable<CsvRecord> {
    for (const char of text) {
      if (++this.#length > longestLine) throw this.#tooLong();
      // A "\r" ends a line by itself, unless the "\n" behind it does.
      if (this.#carriage) {
        this.#carriage = false;
        if (char !== '\n') {
          this.#line += 1;
          yield* this.#endRecord();
        }
      }
      if (char === '\n') this.#line += 1;
      if (this.#quote) {
        this.#quote = false;
        if (char === '"') {
          this.#field += '"';
          continue;
        }
        this.#quoted = false;
      } else if (this.#quoted) {
        if (char === '"') this.#quote = true;
        else this.#field += char;
        continue;
      }
      if (char === '"' && this.#field === '') this.#quoted = true;
      else if (char === this.separator) this.#endField();
      else if (char === '\n') yield* this.#endRecord();
      else if (char === '\r') this.#carriage = true;
      else this.#field += char;
    }
  }

  *end(): Iterable<CsvRecord> {
    if (this.#quoted && !this.#quote)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${this.file}:${this.#begin}: expected a closing quote, got the end of the file.`,
      );
    yield* this.#endRecord();
  }

  /** A quote that is not closed takes in all that follows. */
  #tooLong(): SpindleError {
    return new SpindleError(
      'INVALID_ARGUMENT',
      `${this.file}:${this.#begin}: expected a record of at most ${longestLine} characters, got ` +
        'a longer one.',
    );
  }

  #endField(): void {
    this.#fields.push(this.#field);
    this.#field = '';
  }

  *#endRecord(): Iterable<CsvRecord> {
    this.#endField();
    const fields = this.#fields;
    this.#fields = [];
    this.#length = 0;
    const line = this.#begin;
    this.#begin = this.#line;
    if (fields.length > 1 || fields[0] !== '') yield { fields, line };
  }
}

/**
 * Records of a comma-separated file, or of a tab-separated one when it is named .tsv; the first one
 * is the header.
 */
export async function* readCsv(files: Files, path: string): AsyncIterable<CsvRecord> {
  const parser = new CsvParser(path, path.toLowerCase().endsWith('.tsv') ? '\t' : ',');
  for await (const text of textChunks(files, path)) yield* parser.push(text);
  yield* parser.end();
}

/** Rows of a CSV file as objects, which all have the header's columns. */
export async function* readCsvRows(
  files: Files,
  path: string,
  checkHeader: (columns: readonly string[]) => void,
): AsyncIterable<{ row: Record<string, string>; line: number }> {
  let header: string[] | undefined;
  for await (const { fields, line } of readCsv(files, path)) {
    if (header === undefined) {
      header = fields;
      checkHeader(header);
      continue;
    }
    if (fields.length !== header.length)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${path}:${line}: expected ${header.length} fields, got ${fields.length}.`,
      );
    yield { row: Object.fromEntries(header.map((name, i) => [name, fields[i] ?? ''])), line };
  }
}
