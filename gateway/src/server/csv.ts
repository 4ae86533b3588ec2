/** RFC 4180: quoted fields, doubled quotes, line breaks inside quotes. */
import { SpindleError } from '@spindle/kit';

export interface CsvRecord {
  fields: string[];
  /** Line on which the record begins, from 1. */
  line: number;
}

export function parseCsv(text: string, file: string): CsvRecord[] {
  const source = text.startsWith('\uFEFF') ? text.slice(1) : text;
  const records: CsvRecord[] = [];
  let fields: string[] = [];
  let field = '';
  let quoted = false;
  let line = 1;
  let begin = 1;
  const endRecord = (): void => {
    fields.push(field);
    if (fields.length > 1 || fields[0] !== '') records.push({ fields, line: begin });
    fields = [];
    field = '';
    begin = line;
  };
  for (let i = 0; i < source.length; i++) {
    const char = source[i] ?? '';
    if (char === '\n') line += 1;
    if (quoted) {
      if (char !== '"') field += char;
      else if (source[i + 1] === '"') {
        field += '"';
        i += 1;
      } else quoted = false;
    } else if (char === '"' && field === '') quoted = true;
    else if (char === ',') {
      fields.push(field);
      field = '';
    } else if (char === '\n') endRecord();
    else if (char !== '\r') field += char;
  }
  if (quoted) throw new SpindleError('INVALID_ARGUMENT', `${file}:${begin}: expected a closing quote, got the end of the file.`);
  if (field !== '' || fields.length > 0) endRecord();
  return records;
}
