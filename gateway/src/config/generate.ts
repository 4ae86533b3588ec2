/**
 * `npm run generate`: writes the published JSON Schema and docs/CONFIG.md; `--check` prints which
 * of
 * them are not up to date.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { configPage } from './document.js';
import { runConfigJsonSchema } from './json-schema.js';

const repository = fileURLToPath(new URL('../../../', import.meta.url));

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
  const onlyCheck = process.argv.includes('--check');
  for (const { path, text } of generatedFiles()) {
    if (onlyCheck) {
      const kept = await readFile(path, 'utf8').catch(() => undefined);
      if (kept !== text) process.stdout.write(`${relative(repository, path)}\n`);
      continue;
    }
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, text);
  }
}
