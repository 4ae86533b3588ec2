// `npm run sbom`: a bill of materials in CycloneDX JSON, of package-lock.json, the system packages
// that scripts/lib/system.mjs names, and scripts/cuda/toolkit.lock. Works without a network.
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { cycloneDx } from './lib/cyclonedx.mjs';
import { main } from './lib/phase.mjs';

const help = `npm run sbom [-- --out FILE]: prints a bill of materials (CycloneDX 1.6, JSON).

  --out FILE   write it there instead
  --help       this text`;

await main(() => {
  const { values } = parseArgs({
    options: { out: { type: 'string' }, help: { type: 'boolean', default: false } },
  });
  const text = values.help ? help : JSON.stringify(cycloneDx(), null, 2);
  if (values.out === undefined || values.help) process.stdout.write(`${text}\n`);
  else writeFileSync(values.out, `${text}\n`);
  return 0;
});
