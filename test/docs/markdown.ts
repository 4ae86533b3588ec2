/** What the docs test reads out of a Markdown file. */
export interface Line {
  /** From 1. */
  number: number;
  text: string;
}

export interface Page {
  /** From the repository's root, with "/". */
  path: string;
  /** Lines outside of fenced blocks. */
  prose: readonly Line[];
  fences: readonly { language: string; lines: readonly Line[] }[];
}

/** A piece of a line: a code span's content or a link's target. */
export interface Piece {
  line: number;
  text: string;
}

export function parsePage(path: string, text: string): Page {
  const prose: Line[] = [];
  const fences: { language: string; lines: Line[] }[] = [];
  let open: Line[] | undefined;
  for (const [index, content] of text.split('\n').entries()) {
    const line = { number: index + 1, text: content };
    const fence = /^\s*```(\w*)/.exec(content);
    if (fence !== null && open === undefined) {
      open = [];
      fences.push({ language: fence[1] ?? '', lines: open });
    } else if (fence !== null) {
      open = undefined;
    } else {
      (open ?? prose).push(line);
    }
  }
  return { path, prose, fences };
}

/** Contents of `code spans`, with what a line break in them was joined. */
export function codeSpans(page: Page): Piece[] {
  return matches(page, /`([^`]+)`/g);
}

/** Targets of [text](target) and ![text](target). */
export function linkTargets(page: Page): Piece[] {
  return matches(page, /\]\(([^()\s]+)\)/g);
}

/** Anchors that GitHub gives to the headings of a page. */
export function anchors(page: Page): string[] {
  const seen = new Map<string, number>();
  return page.prose.flatMap(({ text }) => {
    const heading = /^#+\s+(.*)$/.exec(text)?.[1];
    if (heading === undefined) return [];
    const slug = heading
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .trim()
      .replace(/\s/g, '-');
    const before = seen.get(slug) ?? 0;
    seen.set(slug, before + 1);
    return [before === 0 ? slug : `${slug}-${before}`];
  });
}

/** Looks at whole paragraphs, since spans and links may be wrapped. */
function matches(page: Page, pattern: RegExp): Piece[] {
  return paragraphs(page.prose).flatMap((lines) => {
    const text = lines.map((line) => line.text.trim()).join(' ');
    return [...text.matchAll(pattern)].map((match) => ({
      line: lineAt(lines, match.index),
      text: match[1] ?? '',
    }));
  });
}

function paragraphs(lines: readonly Line[]): Line[][] {
  const result: Line[][] = [];
  let last: Line | undefined;
  for (const line of lines) {
    const begins = last === undefined || line.text.trim() === '' || line.number > last.number + 1;
    if (begins) result.push([line]);
    else result.at(-1)?.push(line);
    last = line;
  }
  return result;
}

function lineAt(lines: readonly Line[], offset: number): number {
  let passed = 0;
  for (const line of lines) {
    passed += line.text.trim().length + 1;
    if (offset < passed) return line.number;
  }
  return lines.at(-1)?.number ?? 0;
}
