/** HTML in templates: what goes into them is text, and escaped, unless it is markup itself. */

export class Markup {
  constructor(readonly text: string) {}
}

/** What can stand in a template. */
export type Part = Markup | string | number | readonly Part[];

export const nothing = new Markup('');

/**
 * A piece of a page. Line breaks of the template itself, with the indentation around them, are as
 * in JSX: nothing beside a tag, and one space between words or attributes.
 */
export function markup(template: TemplateStringsArray, ...parts: readonly Part[]): Markup {
  const pieces = template.flatMap((literal, i) => {
    const part = parts[i];
    return part === undefined ? [joined(literal)] : [joined(literal), textOf(part)];
  });
  return new Markup(pieces.join(''));
}

function joined(literal: string): string {
  return literal.replace(/\s*\n\s*/g, (lines, at: number) => {
    const before = literal[at - 1] ?? '>';
    const after = literal[at + lines.length] ?? '<';
    return before === '>' || '<>/'.includes(after) ? '' : ' ';
  });
}

function textOf(part: Part): string {
  if (part instanceof Markup) return part.text;
  if (typeof part === 'string') return escapeHtml(part);
  if (typeof part === 'number') return String(part);
  return part.map(textOf).join('');
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => entities[character] ?? character);
}
