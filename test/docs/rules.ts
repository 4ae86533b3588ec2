import { posix } from 'node:path';
import type { SourceFile, Violation } from '../architecture/sources.js';
import { anchors, codeSpans, linkTargets, parsePage, type Page, type Piece } from './markdown.js';

/** What the docs are compared with. */
export interface Facts {
  /** Files and folders of the repository, from its root. */
  paths: ReadonlySet<string>;
  /** Every word of the sources that is an identifier. */
  words: ReadonlySet<string>;
  /** Scripts of all package.json files. */
  scripts: ReadonlySet<string>;
  /** Commands of the `spindle` program. */
  commands: ReadonlySet<string>;
  /** Names of vitest's projects. */
  projects: ReadonlySet<string>;
  /** Names that are right and not in the sources: other programs', and files that runs write. */
  foreign: ReadonlySet<string>;
}

const columns = 100;
/** Figures stand side by side; explanations do not belong in tables. */
const tableColumns = 140;

export function checkPage(page: Page, pages: readonly Page[], facts: Facts): Violation[] {
  return [
    ...checkLinks(page, pages, facts),
    ...checkPaths(page, facts),
    ...checkNames(page, facts),
    ...checkCommands(page, facts),
    ...checkColumns(page),
  ];
}

export function checkLinks(page: Page, pages: readonly Page[], facts: Facts): Violation[] {
  return linkTargets(page).flatMap((link) => {
    if (/^[a-z]+:/.test(link.text)) return [];
    const [file = '', anchor] = link.text.split('#');
    const target = file === '' ? page.path : posix.join(posix.dirname(page.path), file);
    if (!facts.paths.has(target.replace(/\/$/, ''))) {
      return [violation(page, link, 'a relative link leads to a file of the repository')];
    }
    if (anchor === undefined) return [];
    const linked = pages.find(({ path }) => path === target);
    return linked === undefined || anchors(linked).includes(anchor)
      ? []
      : [violation(page, link, 'an anchor is a heading of the page that it leads to')];
  });
}

const fileName = /^[\w.-]+\.(h|cc|cu|inl|ts|mjs|proto|md|lock)$/;
const placeholder = /[<>{}*…$~|:"']|^\/|^\.\.?\/|^[A-Z]+\//;
/** Made by a build or a run, or brought by a user, so not in a checkout. */
const made =
  /^(build|dist|artifacts|store|results|images|iterations|baselines|checkpoints|\.cache|judges)\//;

/** Paths may leave out what stands before them, as includes do: `kernels/kernels.h`. */
export function checkPaths(page: Page, facts: Facts): Violation[] {
  const fenced = page.fences.flatMap(({ lines }) =>
    lines.flatMap(({ number, text }) =>
      [...text.matchAll(/(?<![\w./-])(?:scripts|services|native-cuda|gateway|test)\/[\w./-]+/g)]
        .map(([path]) => ({ line: number, text: path.replace(/\/$/, '') }))
        .filter(({ text: path }) => !path.endsWith('-') && !path.includes('/dist/')),
    ),
  );
  const spans = codeSpans(page)
    .map((span) => ({ ...span, text: span.text.replace(/\/$/, '') }))
    .filter(({ text }) => isPath(text) && !facts.foreign.has(text));
  return [...spans, ...fenced]
    .filter(({ text }) => !pathExists(text, facts.paths))
    .map((span) => violation(page, span, 'a path is one of the repository'));
}

function isPath(text: string): boolean {
  if (/\s/.test(text) || placeholder.test(text) || made.test(text) || text.includes('/dist/')) {
    return false;
  }
  if (text.startsWith('@')) return false;
  return fileName.test(text) || /^[\w.-]+(\/[\w.-]+)+$/.test(text);
}

function pathExists(path: string, paths: ReadonlySet<string>): boolean {
  if (paths.has(path)) return true;
  for (const known of paths) {
    if (!known.endsWith(path) && !known.includes(`${path}.`)) continue;
    const rest = known.slice(known.lastIndexOf(path) + path.length);
    const before = known.lastIndexOf(path) - 1;
    // `train/objective` is objective.h and objective.cc.
    if ((before < 0 || known[before] === '/') && /^(\.\w+)?$/.test(rest)) return true;
  }
  return false;
}

const identifier =
  /^(?:[a-z]+\d*[A-Z]\w*|[A-Z][a-z0-9]+[A-Z]\w*|_*[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+)$/;

/** What looks like a name of the code is one: camelCase, snake_case, CamelCase, `ns::name`. */
export function checkNames(page: Page, facts: Facts): Violation[] {
  return codeSpans(page).flatMap((span) => {
    const text = span.text.replace(/\(.*\)$/, '');
    if (!/^#?[\w.:]+$/.test(text) || fileName.test(text)) return [];
    const qualified = text.includes('::');
    const parts = text.replace(/^#/, '').split(/::|\./);
    const unknown = parts.some(
      (part) =>
        (qualified || identifier.test(part)) && !facts.words.has(part) && !facts.foreign.has(part),
    );
    return unknown && !facts.foreign.has(text)
      ? [violation(page, span, 'a name in backticks occurs in the sources')]
      : [];
  });
}

export function checkCommands(page: Page, facts: Facts): Violation[] {
  const fenced = page.fences.flatMap(({ lines }) =>
    lines.map(({ number, text }) => ({ line: number, text })),
  );
  return [...codeSpans(page), ...fenced].flatMap((piece) => [
    ...unknownIn(page, piece, /\bnpm run ([\w-]+)/g, facts.scripts, 'npm runs a script'),
    ...unknownIn(
      page,
      piece,
      /(?:\bnpx spindle|^spindle) ([a-z][\w-]*)/g,
      facts.commands,
      'spindle has the command',
    ),
    ...unknownIn(page, piece, /--project ([\w-]+)/g, facts.projects, 'vitest has the project'),
  ]);
}

function unknownIn(
  page: Page,
  piece: Piece,
  pattern: RegExp,
  known: ReadonlySet<string>,
  rule: string,
): Violation[] {
  return [...piece.text.matchAll(pattern)]
    .filter(([, name = '']) => !known.has(name))
    .map(([text]) => violation(page, { line: piece.line, text }, rule));
}

/** Sources that say "docs/X.md" or docs/X.md, "Heading". */
export function checkMentions({ path, text }: SourceFile, pages: readonly Page[]): Violation[] {
  return [...text.matchAll(/\bdocs\/[\w/-]+\.md(?:, "([^"]+)")?/g)].flatMap(
    ([mention, heading]) => {
      const page = pages.find((known) => mention.startsWith(known.path));
      const wanted = heading === undefined ? [] : anchors(parsePage('', `# ${heading}`));
      return page !== undefined && wanted.every((anchor) => anchors(page).includes(anchor))
        ? []
        : [{ edge: `${path} -> ${mention}`, rule: 'a page or heading that a source names exists' }];
    },
  );
}

export function checkColumns(page: Page): Violation[] {
  const lines = [...page.prose, ...page.fences.flatMap((fence) => fence.lines)];
  return lines.flatMap(({ number, text }) => {
    const most = text.startsWith('|') ? tableColumns : columns;
    const bare = text.replace(/\]\([^)]*\)|https?:\S+/g, '');
    const length = Array.from(bare).length;
    return length <= most
      ? []
      : [
          {
            edge: `${page.path}:${number} (${length})`,
            rule: `lines have at most ${columns} columns, tables ${tableColumns}`,
          },
        ];
  });
}

/** The layers of a picture with the edges "b --> a", the lowest first; then what tops it. */
export function layersOf(page: Page): { chain: string[]; tops: string[] } | undefined {
  for (const { language, lines } of page.fences) {
    if (language !== 'mermaid') continue;
    const edges = lines.flatMap(({ text }) => {
      const match = /^\s*(\w+) --> (\w+)$/.exec(text);
      return match === null ? [] : [{ from: match[1] ?? '', to: match[2] ?? '' }];
    });
    if (edges.length !== lines.length - 1) continue;
    const bottom = edges.find(({ to }) => !edges.some(({ from }) => from === to))?.to;
    if (bottom === undefined) continue;
    const chain = [bottom];
    for (;;) {
      const above = edges.filter(({ to }) => to === chain.at(-1)).map(({ from }) => from);
      const next = above.filter((name) => edges.some(({ to }) => to === name));
      if (next.length !== 1 || next[0] === undefined) return { chain, tops: above };
      chain.push(next[0]);
    }
  }
  return undefined;
}

function violation(page: Page, { line, text }: Piece, rule: string): Violation {
  return { edge: `${page.path}:${line} -> ${text}`, rule };
}
