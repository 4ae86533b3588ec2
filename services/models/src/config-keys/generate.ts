/** `npm run generate`: writes docs/MODEL_CONFIGS.md; `--check` prints it where it is stale. */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { modelConfigsPage } from './document.js';

const path = fileURLToPath(new URL('../../../../docs/MODEL_CONFIGS.md', import.meta.url));

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = modelConfigsPage();
  const kept = await readFile(path, 'utf8').catch(() => undefined);
  if (!process.argv.includes('--check')) await writeFile(path, text);
  else if (kept !== text) process.stdout.write('docs/MODEL_CONFIGS.md\n');
}
