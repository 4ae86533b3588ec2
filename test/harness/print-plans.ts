/** `npm run plans`: what each config of examples/ would do, on stand-ins (example-files.ts). */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exampleNames, layOutExamples } from './example-files.js';
import { Mesh } from './mesh.js';

const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !exampleNames.includes(name));
if (unknown.length > 0) {
  process.stderr.write(
    `plans: expected some of ${exampleNames.join(', ')}, got ${unknown.join(', ')}.\n`,
  );
  process.exit(2);
}
const folder = await mkdtemp(join(tmpdir(), 'spindle-plans-'));
const mesh = await Mesh.start();
try {
  await layOutExamples(folder);
  for (const name of asked.length > 0 ? asked : exampleNames) {
    const { code, stdout, stderr } = await mesh.spindle(
      'run',
      join(folder, `${name}.yaml`),
      '--dry-run',
    );
    process.stdout.write(`# examples/${name}.yaml\n${stdout}${stderr}\n`);
    if (code !== 0) process.exitCode = 1;
  }
} finally {
  await mesh.stop();
  await rm(folder, { recursive: true, force: true });
}
