#!/usr/bin/env node
// A committed file, because npm links a workspace's commands at install time, before dist/ exists.
import { existsSync } from 'node:fs';

const main = new URL('../dist/cli/main.js', import.meta.url);
if (existsSync(main)) {
  await import(main.href);
} else {
  console.error(
    'spindle-engine: not built yet; run "npm run build" in the project\'s root folder first.',
  );
  process.exitCode = 1;
}
