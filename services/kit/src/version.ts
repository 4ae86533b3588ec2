import { readFileSync } from 'node:fs';

/** Relative to src and dist alike; every package of the project says the same. */
const manifest = new URL('../package.json', import.meta.url);

/** Spindle's version. */
export const version: string = (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string })
  .version;
