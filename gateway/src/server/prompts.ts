import { readFile } from 'node:fs/promises';
import { SpindleError } from '@spindle/kit';

/** Held-out prompts: one per line, or a JSON array of strings or of {prompt}. */
export async function readPrompts(file: string, limit: number | undefined): Promise<string[]> {
  const text = await readFile(file, 'utf8').catch(() => {
    throw new SpindleError('INVALID_ARGUMENT', `evaluation.prompts: expected a file, got "${file}", which cannot be read.`);
  });
  const prompts = file.toLowerCase().endsWith('.json')
    ? parseJson(text, file)
    : text
        .split(/\r?\n/)
        .map((line) => line.trim())
        .filter((line) => line !== '');
  if (prompts.length === 0) throw new SpindleError('INVALID_ARGUMENT', `${file}: expected at least one prompt, got none.`);
  return prompts.slice(0, limit ?? prompts.length);
}

function parseJson(text: string, file: string): string[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new SpindleError('INVALID_ARGUMENT', `${file}: expected a JSON array of prompts, got text that does not parse.`);
  }
  if (!Array.isArray(value))
    throw new SpindleError('INVALID_ARGUMENT', `${file}: expected a JSON array of prompts, got ${value === null ? 'null' : typeof value}.`);
  return value.map((entry: unknown, i) => {
    const prompt: unknown = typeof entry === 'object' && entry !== null && 'prompt' in entry ? entry.prompt : entry;
    if (typeof prompt !== 'string')
      throw new SpindleError('INVALID_ARGUMENT', `${file}: entry ${i}: expected a string or {prompt}, got ${JSON.stringify(entry)}.`);
    return prompt;
  });
}
