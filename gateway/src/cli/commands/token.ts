/** `spindle token`: a fresh token for a person or a program, and the line that lets it in. */
import { newToken, roles, SpindleError, tokenDigest, type Role } from '@spindle/kit';
import { Argument, type Command } from 'commander';
import { print, printJson } from '../output.js';

export function addToken(program: Command): void {
  program
    .command('token')
    .summary('make a token for a person or a program')
    .description(
      'Prints a fresh token, for whoever is to show it as SPINDLE_TOKEN, and the line that lets it in: ' +
        'put that into the file that SPINDLE_TOKENS_FILE names to the gateway. The line does not ' +
        'hold the token.',
    )
    .argument('<name>', 'who will show it, for the audit log')
    .addArgument(new Argument('<role>', 'how far it reaches').choices(roles))
    .option('--json', 'print JSON for machines')
    .action((name: string, role: Role, options: { json?: boolean }) => {
      if (!/^[A-Za-z0-9._@-]{1,64}$/.test(name))
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `name: expected letters, digits and "._@-", got "${name}".`,
        );
      const token = newToken();
      const line = `${name} ${role} sha256:${tokenDigest(token).toString('hex')}`;
      if (options.json) printJson(JSON.stringify({ token, line }));
      else print(`token: ${token}\nline:  ${line}`);
    });
}
