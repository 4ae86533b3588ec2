/**
 * Renders docs/CONFIG.md from the JSON Schema, so that the page cannot disagree with the program.
 */
import type { JsonSchema } from './json-schema.js';

const intro = `# Run config

A run config is one YAML or JSON file: \`npx spindle run CONFIG\`, or \`npx spindle run CONFIG --dry-run\` to check it and see what would be done.
Relative paths mean "beside the config file". Unknown keys are refused with the nearest valid key. Editors complete and check the file with
[gateway/schema/run.schema.json](../gateway/schema/run.schema.json) (\`# yaml-language-server: $schema=…\`).

The smallest config:

\`\`\`yaml
model: ./my-model        # a Stable Diffusion pipeline in diffusers' folder format
data:
  path: ./my-images      # images, and metadata.jsonl with {"file_name": …, "text": …} per line
\`\`\`

This page is generated from the schema (\`npm run generate --workspace @spindle/gateway\`).
`;

export function configPage(schema: JsonSchema): string {
  return [intro, ...sections('', schema)].join('\n');
}

function sections(path: string, schema: JsonSchema): string[] {
  const required = new Set(schema.required ?? []);
  const own = Object.entries(schema.properties ?? {}).filter(([key]) => key !== '$schema');
  const rows = own.map(
    ([key, value]) =>
      `| \`${key}\` | ${typeText(value)} | ${defaultText(value, required.has(key))} | ${cell(description(path, key, value))} |`,
  );
  const table = ['| key | type | default | meaning |', '|---|---|---|---|', ...rows].join('\n');
  const heading = path === '' ? '## Top level' : `## ${path}`;
  const text = path !== '' && schema.description ? `${schema.description}\n` : '';
  const nested = own.flatMap(([key, value]) => {
    const inner = objectOf(value);
    if (!inner?.schema.properties) return [];
    return sections(`${path === '' ? key : `${path}.${key}`}${inner.list ? '[]' : ''}`, {
      ...inner.schema,
      ...(value.description && { description: value.description }),
    });
  });
  return [`${heading}\n`, ...(text ? [text] : []), `${table}\n`, ...nested];
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
  if (required) return '*required*';
  if (schema.default === undefined || objectOf(schema)) return '';
  return `\`${JSON.stringify(schema.default)}\``;
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|');
}
