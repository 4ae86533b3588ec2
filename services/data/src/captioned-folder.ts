/**
 * A folder of images with a text file beside each ("cat.png", "cat.txt"), as kohya's scripts,
 * ai-toolkit, OneTrainer and SimpleTuner read it.
 */
import { realpath } from 'node:fs/promises';
import { SpindleError } from '@spindle/kit';
import { checkedCaption } from './columns.js';
import { isRemote, nameBelow, type FileEntry, type Files } from './files.js';
import { isImageName } from './folder.js';
import { compareNaturally } from './natural-order.js';
import { Skipped, some, type DataRow, type DataSource } from './rows.js';
import { decodeText } from './text.js';

/** Usual suffixes of a caption's file; the first that is there counts. */
const captionSuffixes = ['txt', 'caption'];

const largestCaption = 1 << 20;

/** Whether any image has a caption's file beside it. */
export function isCaptionedFolder(names: readonly string[], suffix?: string): boolean {
  const all = new Set(names);
  return names.some((name) => isImageName(name) && captionFile(name, all, suffix) !== undefined);
}

export class CaptionedFolder implements DataSource {
  readonly format = 'captions';
  readonly skipped = new Skipped();
  readonly warnings: string[] = [];

  /** `suffix` is that of the captions' files; without it they have the usual ones. */
  constructor(
    readonly store: Files,
    readonly folder: string,
    readonly suffix?: string,
  ) {}

  /** A file for each image: the folder stands for them. */
  get files(): readonly string[] {
    return [this.folder];
  }

  async *rows(): AsyncIterable<DataRow> {
    const root = isRemote(this.folder) ? this.folder : await realpath(this.folder);
    const files = new Map(
      (await this.store.list(root)).map((entry) => [nameBelow(root, entry.path), entry]),
    );
    const names = new Set(files.keys());
    const images = [...names]
      .filter((name) => isImageName(name) && !isHidden(name))
      .sort(compareNaturally);
    const read = new Set<string>();
    const longer: string[] = [];
    for (const name of images) {
      const own = captionFile(name, names, this.suffix);
      const [image, text] = [files.get(name), own === undefined ? undefined : files.get(own)];
      if (image === undefined || own === undefined || text === undefined) {
        this.skipped.add('no caption', name);
        continue;
      }
      read.add(own);
      const { caption, lines } = await this.#caption(text);
      if (lines > 1) longer.push(own);
      yield { key: name, caption, image: { kind: 'file', file: image.path }, position: name };
    }
    if (read.size === 0) throw this.#empty();
    const stems = new Set(images.map(stem));
    const alone = [...names]
      .filter((name) => !isHidden(name) && !read.has(name) && this.#isCaption(name))
      .filter((name) => !stems.has(stem(name)))
      .sort(compareNaturally);
    if (alone.length > 0)
      this.warnings.push(
        `data: ${alone.length} captions have no image and are not used: ${some(alone)}.`,
      );
    if (longer.length > 0)
      this.warnings.push(
        `data: ${longer.length} captions have more than one line, of which the first counts: ` +
          `${some(longer)}.`,
      );
  }

  /** The first line that is not empty, and how many there are. */
  async #caption({ path, bytes }: FileEntry): Promise<{ caption: string; lines: number }> {
    if (bytes > largestCaption)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${path}: expected a caption of at most ${largestCaption} bytes, got ${bytes}.`,
      );
    const lines = decodeText(await this.store.read(path, 0, bytes), path)
      .split(/\r\n|\n|\r/)
      .map((line) => line.trim())
      .filter((line) => line !== '');
    return { caption: checkedCaption(lines[0] ?? '', path), lines: lines.length };
  }

  #isCaption(name: string): boolean {
    return (this.suffix === undefined ? captionSuffixes : [this.suffix]).some((suffix) =>
      name.endsWith(`.${suffix}`),
    );
  }

  #empty(): SpindleError {
    const ends = this.suffix === undefined ? captionSuffixes : [this.suffix];
    return new SpindleError(
      'INVALID_ARGUMENT',
      `data.path: expected images in ${this.folder} with a file of the same name that ends in ` +
        `${ends.map((end) => `.${end}`).join(' or ')} beside them, got none.`,
    );
  }
}

function captionFile(
  image: string,
  names: ReadonlySet<string>,
  suffix: string | undefined,
): string | undefined {
  const suffixes = suffix === undefined ? captionSuffixes : [suffix];
  return suffixes.map((end) => `${stem(image)}.${end}`).find((name) => names.has(name));
}

/** A path without its last suffix. */
function stem(name: string): string {
  const dot = name.lastIndexOf('.');
  return dot > name.lastIndexOf('/') ? name.slice(0, dot) : name;
}

/** What notebooks and file managers leave (".ipynb_checkpoints", "._cat.png"). */
function isHidden(name: string): boolean {
  return name.split('/').some((part) => part.startsWith('.'));
}
