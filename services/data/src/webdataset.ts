/**
 * WebDataset: tar shards whose members with the same name up to the first dot are one sample
 * ("0001.jpg", "0001.txt"). Only headers and captions are read; images stay in their shard and are
 * named by offset.
 */
import { SpindleError } from '@spindle/kit';
import { captionNames, captionOf, checkedCaption } from './columns.js';
import { isImageName } from './folder.js';
import { nameOf, type Files } from './files.js';
import { shortened, Skipped, type DataRow, type DataSource, type ImageRef } from './rows.js';
import { openTar, type Tar, type TarMember } from './tar.js';
import { decodeText } from './text.js';

export interface WebDatasetColumns {
  /** Suffix of the image ("jpg", "chosen.png"); any image without it. */
  image?: string | undefined;
  rejected?: string | undefined;
  /** Suffix of the caption, or its key in the sample's .json. */
  caption?: string | undefined;
}

/** Members of one sample by suffix; `twice` is a suffix that two of them have. */
interface Sample {
  members: Map<string, TarMember>;
  twice: string | undefined;
}

const largestCaptionFile = 1 << 20;

export class WebDataset implements DataSource {
  readonly format = 'webdataset';
  readonly skipped = new Skipped();
  readonly warnings: string[] = [];

  constructor(
    readonly store: Files,
    readonly files: readonly string[],
    readonly columns: WebDatasetColumns,
  ) {}

  async *rows(): AsyncIterable<DataRow> {
    for (const file of this.files) {
      const tar = openTar(this.store, file);
      let key: string | undefined;
      let parts: Sample = { members: new Map(), twice: undefined };
      for await (const member of tar.members()) {
        const name = splitName(member.name);
        if (name === undefined) continue;
        if (name.key !== key) {
          if (key !== undefined) yield* this.#sample(tar, file, key, parts);
          key = name.key;
          parts = { members: new Map(), twice: undefined };
        }
        if (parts.members.has(name.suffix)) parts.twice ??= name.suffix;
        // Captions are read while their neighbourhood is at hand.
        parts.members.set(name.suffix, member);
      }
      if (key !== undefined) yield* this.#sample(tar, file, key, parts);
    }
  }

  async *#sample(
    tar: Tar,
    file: string,
    key: string,
    { members: parts, twice }: Sample,
  ): AsyncIterable<DataRow> {
    const position = `${nameOf(file)}:${key}`;
    // A tar that was appended to; webdataset itself stops here.
    if (twice !== undefined) {
      this.skipped.add('two members of the same name', `${position}.${twice}`);
      return;
    }
    const image = this.#image(file, parts, this.columns.image, [this.columns.rejected]);
    const rejected =
      this.columns.rejected === undefined
        ? undefined
        : this.#image(file, parts, this.columns.rejected, []);
    const caption = await this.#caption(tar, file, parts);
    if (image === undefined) this.skipped.add('no image', position);
    else if (this.columns.rejected !== undefined && rejected === undefined)
      this.skipped.add('no rejected image', position);
    else if (caption === undefined) this.skipped.add('no caption', position);
    else yield { key: position, caption, image, ...(rejected && { rejected }), position };
  }

  #image(
    file: string,
    parts: Map<string, TarMember>,
    suffix: string | undefined,
    without: (string | undefined)[],
  ): ImageRef | undefined {
    for (const [own, member] of parts) {
      const wanted =
        suffix === undefined ? isImageName(`x.${own}`) && !without.includes(own) : own === suffix;
      if (wanted)
        return {
          kind: 'member',
          file,
          offset: member.offset,
          bytes: member.bytes,
          member: member.name,
        };
    }
    return undefined;
  }

  async #caption(
    tar: Tar,
    file: string,
    parts: Map<string, TarMember>,
  ): Promise<string | undefined> {
    const wanted = this.columns.caption;
    const text = parts.get(wanted ?? 'txt');
    if (text !== undefined && (wanted === undefined || wanted !== 'json'))
      return checkedCaption(
        (await readMember(tar, file, text)).trim(),
        `${file}: ${shortened(text.name)}`,
      );
    const json = parts.get('json');
    if (json === undefined) return undefined;
    const source = await readMember(tar, file, json);
    let value: unknown;
    try {
      value = JSON.parse(source);
    } catch {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${file}: ${shortened(json.name)}: expected JSON, got text that does not parse.`,
      );
    }
    for (const key of wanted === undefined ? captionNames : [wanted]) {
      const found: unknown =
        typeof value === 'object' && value !== null
          ? (value as Record<string, unknown>)[key]
          : undefined;
      const text = captionOf(found, `${file}: ${shortened(json.name)}: ${key}`);
      if (text !== null) return text;
    }
    return undefined;
  }
}

async function readMember(tar: Tar, file: string, member: TarMember): Promise<string> {
  if (member.bytes > largestCaptionFile) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${file}: ${shortened(member.name)}: expected a caption of at most ${largestCaptionFile} bytes, ` +
        `got ${member.bytes}.`,
    );
  }
  return decodeText(await tar.read(member), `${file}: ${shortened(member.name)}`);
}

/**
 * "a/b/0001.seg.png" is part "seg.png" of sample "a/b/0001"; files without a suffix and hidden ones
 * belong to no sample.
 */
function splitName(name: string): { key: string; suffix: string } | undefined {
  const slash = name.lastIndexOf('/') + 1;
  const dot = name.indexOf('.', slash);
  if (dot <= slash) return undefined;
  return {
    key: name.slice(0, dot).replace(/^\.\//, ''),
    suffix: name.slice(dot + 1).toLowerCase(),
  };
}
