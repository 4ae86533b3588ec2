/** `npm run generate`: writes the published JSON Schema and docs/CONFIG.md. */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { configPage } from './document.js';
import { runConfigJsonSchema } from './json-schema.js';

/**
 * Path and text of every file generated from the schema; this module lies two folders below the
 * workspace, in src/ and in dist/.
 */
export function generatedFiles(): { path: string; text: string }[] {
  const schema = runConfigJsonSchema();
  return [
    {
      path: fileURLToPath(new URL('../../schema/run.schema.json', import.meta.url)),
      text: `${JSON.stringify(schema, null, 2)}\n`,
    },
    {
      path: fileURLToPath(new URL('../../../docs/CONFIG.md', import.meta.url)),
      text: configPage(schema),
    },
  ];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const { path, text } of generatedFiles()) {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
  }
}
