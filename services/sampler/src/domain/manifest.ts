/** One row of a data manifest; its position is the data set index. */
export interface ManifestRow {
  index: number;
  file: string;
  text: string;
}

/** Rows [start, start + count) of JSON lines of {"file", "text"}; throws Error with a sentence that names the line. */
export function readManifest(text: string, start: number, count: number): ManifestRow[] {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  if (start + count > lines.length) throw new Error(`manifest: expected at least ${start + count} rows, got ${lines.length}`);
  return lines.slice(start, start + count).map((line, offset) => {
    const index = start + offset;
    const row = parseRow(line, index);
    return { index, file: row.file, text: row.text };
  });
}

function parseRow(line: string, index: number): { file: string; text: string } {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new Error(`manifest row ${index}: expected JSON, got ${line.slice(0, 60)}`, { cause });
  }
  const row = value as { file?: unknown; text?: unknown } | null;
  if (typeof row?.file !== 'string' || typeof row.text !== 'string') {
    throw new Error(`manifest row ${index}: expected {"file": string, "text": string}, got ${line.slice(0, 60)}`);
  }
  return { file: row.file, text: row.text };
}
