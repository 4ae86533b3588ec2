/**
 * Renders docs/CONFIG.md from the JSON Schema, so that the page cannot disagree with the program.
 */
import type { JsonSchema } from './json-schema.js';

const columns = 100;

const intro = `# Run config

A run config is one YAML or JSON file: \`npx spindle run CONFIG\`, or
\`npx spindle run CONFIG --dry-run\` to check it and see what would be done. Relative paths mean
"beside the config file". Unknown keys are refused with the nearest valid key. Editors complete and
check the file with [gateway/schema/run.schema.json](../gateway/schema/run.schema.json)
(\`# yaml-language-server: $schema=…\`).

The smallest config:

\`\`\`yaml
model: ./my-model # a Stable Diffusion pipeline in diffusers' folder format
data:
  path: ./my-images # images, and metadata.jsonl with {"file_name": …, "text": …} per line
\`\`\`

This page is generated from the schema (\`npm run generate --workspace @spindle/gateway\`).

`;

/** As prettier leaves it: the page is checked like every other one. */
export function configPage(schema: JsonSchema): string {
  return `${intro}${sections('', schema).join('\n\n')}\n`;
}

function sections(path: string, schema: JsonSchema): string[] {
  const required = new Set(schema.required ?? []);
  const own = Object.entries(schema.properties ?? {}).filter(([key]) => key !== '$schema');
  const entries = own.map(([key, value]) => {
    const facts = [typeText(value), defaultText(value, required.has(key))].filter(Boolean);
    const text = `\`${key}\` — ${facts.join('; ')}. ${description(path, key, value)}`;
    return wrap(prose(text), '- ', '  ');
  });
  const nested = own.flatMap(([key, value]) => {
    const inner = objectOf(value);
    if (!inner?.schema.properties) return [];
    return sections(`${path === '' ? key : `${path}.${key}`}${inner.list ? '[]' : ''}`, {
      ...inner.schema,
      ...(value.description && { description: value.description }),
    });
  });
  const text = path !== '' && schema.description ? [wrap(prose(schema.description))] : [];
  const heading = path === '' ? '## Top level' : `## ${path}`;
  return [heading, ...text, entries.join('\n'), ...nested];
}

/** Code stays on a line, and no line begins as an item of a list would. */
const unbroken = /(?:`[^`]*`|\S)+(?: (?:\d+[.)]|[-+#])(?=\s|$))*/g;

/** Filled to 100 columns. */
function wrap(text: string, first = '', next = ''): string {
  const lines: string[] = [];
  let line = first;
  for (const [word] of text.matchAll(unbroken)) {
    const started = line !== first && line !== next;
    if (started && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = next + word;
    } else line += started ? ` ${word}` : word;
  }
  return [...lines, line].join('\n');
}

/** Stars are stars: nothing in a description is emphasised. */
function prose(text: string): string {
  return text.replaceAll('*', '\\*');
}

function objectOf(schema: JsonSchema): { schema: JsonSchema; list: boolean } | undefined {
  if (schema.properties) return { schema, list: false };
  if (schema.items?.properties) return { schema: schema.items, list: true };
  const option = schema.anyOf?.find((o) => o.properties);
  return option && { schema: option, list: false };
}

function description(path: string, key: string, schema: JsonSchema): string {
  const name = path === '' ? key : `${path}.${key}`;
  const inner = objectOf(schema);
  const text = schema.description ?? '';
  return inner
    ? `${text} See [${name}](#${anchor(`${name}${inner.list ? '[]' : ''}`)}).`.trim()
    : text;
}

/** GitHub's heading anchors: lower case, punctuation dropped. */
function anchor(heading: string): string {
  return heading
    .toLowerCase()
    .replaceAll(/[^a-z0-9_ -]/g, '')
    .replaceAll(' ', '-');
}

function typeText(schema: JsonSchema): string {
  if (schema.enum) return schema.enum.map((value) => `\`${String(value)}\``).join(', ');
  if (schema.anyOf) return [...new Set(schema.anyOf.map(typeText))].join(' or ');
  if (schema.type === 'array') return `list of ${schema.items ? typeText(schema.items) : 'values'}`;
  if (schema.type === 'object') return schema.properties ? 'section' : 'map';
  return `${schema.type ?? 'any'}${bounds(schema)}`;
}

function bounds(schema: JsonSchema): string {
  const low =
    schema.minimum !== undefined
      ? `≥ ${schema.minimum}`
      : schema.exclusiveMinimum !== undefined
        ? `> ${schema.exclusiveMinimum}`
        : '';
  const high =
    schema.maximum !== undefined
      ? `≤ ${schema.maximum}`
      : schema.exclusiveMaximum !== undefined
        ? `< ${schema.exclusiveMaximum}`
        : '';
  const both = [low, high].filter((text) => text !== '').join(', ');
  return both === '' ? '' : ` ${both}`;
}

function defaultText(schema: JsonSchema, required: boolean): string {
  if (required) return 'required';
  if (schema.default === undefined || objectOf(schema)) return '';
  return `default \`${JSON.stringify(schema.default)}\``;
}
