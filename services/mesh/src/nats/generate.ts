/**
 * Writes infra/nats/users.conf, and the Helm chart's copy of it; with --check, names those that are
 * not what would be written.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { usersConfig, type NatsService } from './permissions.js';

// A chart is packed as it lies: it can point to nothing outside of it.
const names = ['infra/nats/users.conf', 'infra/helm/spindle/files/users.conf'];
const root = fileURLToPath(new URL('../../../..', import.meta.url));

const passwords: Readonly<Record<NatsService, string>> = {
  gateway: 'SPINDLE_NATS_GATEWAY_PASSWORD',
  sampler: 'SPINDLE_NATS_SAMPLER_PASSWORD',
  scorer: 'SPINDLE_NATS_SCORER_PASSWORD',
  trainer: 'SPINDLE_NATS_TRAINER_PASSWORD',
};

const text = `# Written by "npm run generate" from services/mesh/src/nats/permissions.ts: the services of a mesh as
# users of nats-server, each with what it may do. "include" it in the server's config; the passwords
# are variables of the server's environment and begin with a letter (its parser takes them for
# numbers otherwise).
${usersConfig((service) => `$${passwords[service]}`)}`;

for (const name of names) {
  const file = join(root, name);
  if (read(file) === text) continue;
  if (process.argv.includes('--check')) process.stdout.write(`${name}\n`);
  else {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
