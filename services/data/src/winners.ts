/**
 * Prompts, and a folder with the image that each of them stands for. Images whose names are all
 * numbers belong to the prompt of that number, counted from 0 ("00012.png"); otherwise there must
 * be as many images as prompts, and both go in order: images by the numbers in their names, so that
 * "img2.png" comes before "img10.png".
 */
import { SpindleError } from '@spindle/kit';
import { isRemote, nameBelow, nameOf, type Files } from './files.js';
import { isImageName } from './folder.js';
import { compareNaturally } from './natural-order.js';
import { promptsOf, type WrittenPrompt } from './prompt-file.js';
import { Prompts } from './prompts.js';
import { Skipped, some, type DataRow, type DataSource } from './rows.js';

export class PromptsAndWinners implements DataSource {
  readonly format = 'prompts';
  readonly skipped = new Skipped();
  readonly warnings: string[] = [];

  constructor(
    readonly store: Files,
    readonly prompts: string,
    readonly images: string,
  ) {}

  get files(): readonly string[] {
    return [this.prompts];
  }

  async *rows(): AsyncIterable<DataRow> {
    const prompts: WrittenPrompt[] = [];
    for await (const prompt of promptsOf(this.store, this.prompts)) prompts.push(prompt);
    if (prompts.length === 0)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${this.prompts}: expected at least one prompt, got none.`,
      );
    const found = (await this.store.list(this.images)).map(({ path }) => path).filter(isImageName);
    if (found.length === 0)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `data.images: expected a folder with images, got none in "${this.images}".`,
      );
    const byPrompt = this.#match(found, prompts.length);
    const repeats = new Prompts();
    for (const [i, { prompt: text, line }] of prompts.entries()) {
      const position = `${nameOf(this.prompts)}:${line}`;
      const file = byPrompt.get(i);
      if (file === undefined) this.skipped.add('no image', position);
      else {
        repeats.add(text);
        yield { key: position, caption: text, image: { kind: 'file', file }, position };
      }
    }
    this.warnings.push(...repeats.warnings());
  }

  #match(found: readonly string[], prompts: number): Map<number, string> {
    const numbers = found.map((path) => numberOf(nameOf(path)));
    if (numbers.some((number) => number === undefined)) {
      if (found.length !== prompts) {
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `data.images: expected ${prompts} images (one per prompt), or names that are the ` +
            `prompts' numbers from 0, got ${found.length} images in "${this.images}".`,
        );
      }
      const ordered = [...found].sort(compareNaturally);
      const moved = ordered.findIndex((path, i) => path !== found[i]);
      if (moved !== -1) {
        this.warnings.push(
          'data.images: images are paired with prompts in the order of the numbers in their ' +
            `names ("${nameOf(ordered[moved] ?? '')}" for prompt ${moved}).`,
        );
      }
      return new Map(ordered.map((path, i) => [i, path]));
    }
    const matched = new Map<number, string>();
    const beyond: string[] = [];
    for (const [i, path] of found.entries()) {
      const number = numbers[i] ?? 0;
      const own = isRemote(path) ? nameOf(path) : nameBelow(this.images, path);
      if (number >= prompts) beyond.push(own);
      else if (matched.has(number))
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `data.images: expected one image per prompt, got ${own} as a second one for prompt ` +
            `${number}.`,
        );
      else matched.set(number, path);
    }
    if (beyond.length > 0)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `data.images: expected numbers from 0 to ${prompts - 1} (prompts), got ${some(beyond)}.`,
      );
    return matched;
  }
}

function numberOf(name: string): number | undefined {
  const digits = /^(\d{1,9})\.[^.]+$/.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}
