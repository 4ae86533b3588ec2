/**
 * A CLIP tokenizer's files as transformers 5 reads them: vocabulary and merges of tokenizer.json
 * (all that transformers 5 writes) or of vocab.json and merges.txt, and the special tokens of the
 * small configs beside them.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { invalid } from '@spindle/native';
import { checkKeys } from '../config-keys/rules.js';
import { tokenizerJsonKeys, tokenizerKeys, tokenizerModelKeys } from '../config-keys/tokenizer.js';
import {
  describe,
  isObject,
  readJsonObject,
  readText,
  type JsonObject,
  type JsonValue,
} from '../files/json.js';

export interface SpecialToken {
  content: string;
  id: number;
  /** Matched in the normalised text instead of the raw one. */
  normalized: boolean;
}

export interface TokenizerFiles {
  vocab: ReadonlyMap<string, number>;
  /** Of "first second": the lowest rank is merged first. */
  ranks: ReadonlyMap<string, number>;
  bos: SpecialToken;
  eos: SpecialToken;
  unk: SpecialToken;
  pad: SpecialToken;
  /** Every token that is looked for in the text itself, those four among them. */
  specials: readonly SpecialToken[];
  /** bos and eos included; Infinity when the files state none. */
  modelMaxLength: number;
  warnings: string[];
}

/** The model of a tokenizer.json, or what older files say of the same. */
interface Model {
  file: string;
  vocab: ReadonlyMap<string, number>;
  ranks: ReadonlyMap<string, number>;
  /** Tokens beside the vocabulary, with the ids that they are given. */
  added: readonly { value: JsonValue; id: number; file: string }[];
  warnings: string[];
}

/** Whether a folder has the files of a CLIP tokenizer. */
export function hasTokenizer(directory: string): boolean {
  return ['tokenizer.json', 'vocab.json'].some((name) => existsSync(join(directory, name)));
}

export function readTokenizerFiles(directory: string): TokenizerFiles {
  if (!hasTokenizer(directory))
    throw invalid(
      directory,
      'expected tokenizer.json, or vocab.json and merges.txt, got none of them',
    );
  const model = existsSync(join(directory, 'tokenizer.json'))
    ? readTokenizerJson(join(directory, 'tokenizer.json'))
    : readVocabAndMerges(directory);
  const file = join(directory, 'tokenizer_config.json');
  const config = optionalObject(file);
  const known = Object.entries(config).filter(([key]) => !isTokenName(key));
  const warnings = [
    ...model.warnings,
    ...checkKeys(Object.fromEntries(known), tokenizerKeys, file),
  ];
  return {
    vocab: model.vocab,
    ranks: model.ranks,
    ...readSpecialTokens(directory, config, model),
    modelMaxLength: readMaxLength(
      config['model_max_length'] === undefined
        ? (config['max_len'] ?? undefined)
        : (config['model_max_length'] ?? undefined),
      file,
    ),
    warnings,
  };
}

function readMaxLength(limit: JsonValue | undefined, file: string): number {
  if (limit !== undefined && (typeof limit !== 'number' || !(limit >= 2)))
    throw invalid(
      file,
      `model_max_length: expected a number of at least 2, got ${describe(limit)}`,
    );
  // transformers writes 1e30 for "no limit".
  return limit !== undefined && limit < 1e9 ? limit : Number.POSITIVE_INFINITY;
}

/** transformers takes these parts alone, and builds CLIP's normaliser and word pattern itself. */
function readTokenizerJson(file: string): Model {
  const whole = readJsonObject(file);
  const warnings = checkKeys(whole, tokenizerJsonKeys, file);
  for (const part of ['padding', 'truncation']) {
    const settings = whole[part];
    const direction = isObject(settings) ? settings['direction'] : undefined;
    if (direction !== undefined && direction !== 'Right')
      throw invalid(
        file,
        `${part}.direction: expected "Right" (other values are not supported), got ` +
          describe(direction),
      );
  }
  const model = whole['model'];
  if (!isObject(model) || (model['type'] ?? 'BPE') !== 'BPE')
    throw invalid(
      file,
      `model: expected one of type BPE, got ${describe(isObject(model) ? model['type'] : model)}`,
    );
  warnings.push(...checkKeys(model, tokenizerModelKeys, `${file}: model`));
  const { vocab, merges } = model;
  if (!isObject(vocab))
    throw invalid(file, `model.vocab: expected an object of ids, got ${describe(vocab)}`);
  if (!Array.isArray(merges))
    throw invalid(file, `model.merges: expected a list, got ${describe(merges)}`);
  const ranks = new Map<string, number>();
  merges.forEach((merge, n) => {
    // Pairs, or of files before tokenizers 0.20 strings.
    const pair = Array.isArray(merge) && merge.every((part) => typeof part === 'string');
    addMerge(ranks, pair ? merge.join(' ') : merge, `${file}: model.merges[${n}]`);
  });
  const tokens = whole['added_tokens'] ?? [];
  if (!Array.isArray(tokens))
    throw invalid(file, `added_tokens: expected a list, got ${describe(tokens)}`);
  const added = tokens.map((value, n) => {
    const id = isObject(value) ? value['id'] : undefined;
    return { value, id: checkId(id, `added_tokens[${n}].id`, file), file };
  });
  return { file, vocab: readVocab(vocab, file), ranks, added, warnings };
}

function readVocabAndMerges(directory: string): Model {
  const file = join(directory, 'vocab.json');
  const merges = join(directory, 'merges.txt');
  const ranks = new Map<string, number>();
  readText(merges)
    .split('\n')
    .forEach((line, index) => {
      const merge = line.trimEnd();
      if (merge === '' || (index === 0 && merge.startsWith('#version'))) return;
      addMerge(ranks, merge, `${merges}:${index + 1}`);
    });
  const addedFile = join(directory, 'added_tokens.json');
  const added = Object.entries(optionalObject(addedFile)).map(([value, id]) => ({
    value,
    id: checkId(id, JSON.stringify(value), addedFile),
    file: addedFile,
  }));
  return { file, vocab: readVocab(readJsonObject(file), file), ranks, added, warnings: [] };
}

function readVocab(ids: JsonObject, file: string): Map<string, number> {
  return new Map(
    Object.entries(ids).map(([token, id]) => [token, checkId(id, JSON.stringify(token), file)]),
  );
}

function checkId(id: JsonValue | undefined, field: string, file: string): number {
  if (typeof id !== 'number' || !Number.isInteger(id) || id < 0)
    throw invalid(file, `${field}: expected a non-negative integer id, got ${describe(id)}`);
  return id;
}

function addMerge(ranks: Map<string, number>, merge: JsonValue, where: string): void {
  if (typeof merge !== 'string' || merge.split(' ').length !== 2)
    throw invalid(where, `expected two symbols with a space between, got ${describe(merge)}`);
  if (!ranks.has(merge)) ranks.set(merge, ranks.size);
}

function optionalObject(file: string): JsonObject {
  return existsSync(file) ? readJsonObject(file) : {};
}

/**
 * With added_tokens_decoder, tokenizer_config.json says all; without it, it is of an older make and
 * special_tokens_map.json decides (Stable Diffusion 2 pads by that file).
 */
function readSpecialTokens(
  directory: string,
  config: JsonObject,
  model: Model,
): Pick<TokenizerFiles, 'bos' | 'eos' | 'unk' | 'pad' | 'specials'> {
  const configFile = join(directory, 'tokenizer_config.json');
  const mapFile = join(directory, 'special_tokens_map.json');
  const decoder = config['added_tokens_decoder'];
  const map = isObject(decoder) ? {} : optionalObject(mapFile);
  const added = [
    ...(isObject(decoder) ? Object.entries(decoder) : []).map(([id, value]) => ({
      value,
      id: checkId(Number(id), 'added_tokens_decoder', configFile),
      file: configFile,
    })),
    ...model.added,
  ];
  const ids = new Map(added.map(({ value, id }) => [contentOf(value), id]));
  const resolve = (value: JsonValue, field: string, file: string): SpecialToken => {
    const content = contentOf(value);
    if (content === undefined)
      throw invalid(file, `${field}: expected a token, got ${describe(value)}`);
    for (const option of ['lstrip', 'rstrip', 'single_word']) {
      if (isObject(value) && value[option] === true)
        throw invalid(file, `${field}.${option}: expected false, got true (not supported)`);
    }
    const id = model.vocab.get(content) ?? ids.get(content);
    if (id === undefined)
      throw invalid(
        model.file,
        `expected the ${field} ${JSON.stringify(content)} among its entries, got none`,
      );
    return { content, id, normalized: isObject(value) && value['normalized'] === true };
  };
  const named = (field: string, fallback: string): SpecialToken => {
    const mapped = map[field] ?? undefined;
    return mapped === undefined
      ? resolve(config[field] ?? fallback, field, configFile)
      : resolve(mapped, field, mapFile);
  };
  const end = '<|endoftext|>';
  const [bos, eos, unk, pad] = [
    named('bos_token', '<|startoftext|>'),
    named('eos_token', end),
    named('unk_token', end),
    named('pad_token', end),
  ];
  // Declared ones come first: they say best whether a token is matched in the normalised text.
  const specials = new Map<string, SpecialToken>();
  for (const token of [
    ...added.map(({ value, file }) => resolve(value, 'added token', file)),
    ...[bos, eos, unk, pad],
    ...furtherTokens({ ...config, ...map }).map(([field, value]) =>
      resolve(value, field, configFile),
    ),
  ])
    if (!specials.has(token.content)) specials.set(token.content, token);
  return { bos, eos, unk, pad, specials: [...specials.values()] };
}

/** A token that a model of some kind names for itself: transformers looks for it in texts too. */
function isTokenName(key: string): boolean {
  return key.endsWith('_token') && !Object.hasOwn(tokenizerKeys.keys, key);
}

/** Tokens beside the four: separators, masks, those of a model's own names, and the lists. */
function furtherTokens(config: JsonObject): [field: string, value: JsonValue][] {
  const named = Object.entries(config).filter(
    ([key, value]) =>
      (['sep_token', 'cls_token', 'mask_token'].includes(key) || isTokenName(key)) &&
      (typeof value === 'string' || isObject(value)),
  );
  const extra = config['extra_special_tokens'];
  const listed =
    (Array.isArray(extra) && extra.length > 0) || (isObject(extra) && Object.keys(extra).length > 0)
      ? 'extra_special_tokens'
      : 'additional_special_tokens';
  const lists = [listed, 'model_specific_special_tokens'].flatMap((field) => {
    const tokens = config[field];
    const values = isObject(tokens) ? Object.values(tokens) : Array.isArray(tokens) ? tokens : [];
    return values.map((value): [string, JsonValue] => [field, value]);
  });
  return [...named, ...lists];
}

function contentOf(value: JsonValue): string | undefined {
  const content = isObject(value) ? value['content'] : value;
  return typeof content === 'string' && content !== '' ? content : undefined;
}
