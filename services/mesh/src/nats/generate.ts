/** Writes infra/nats/users.conf; with --check, names it where it is not what would be written. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { usersConfig, type NatsService } from './permissions.js';

const name = 'infra/nats/users.conf';
const file = join(fileURLToPath(new URL('../../../..', import.meta.url)), name);

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

if (read() !== text) {
  if (process.argv.includes('--check')) process.stdout.write(`${name}\n`);
  else {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
}

function read(): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
