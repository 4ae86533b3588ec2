/** `spindle page`: the link that opens the status page. */
import { SpindleError } from '@spindle/kit';
import type { Command } from 'commander';
import { pageLink } from '../../http/access.js';
import { artifactsFolder, givenToken, type CommonOptions, type Environment } from '../context.js';
import { isAlive } from '../../orchestrator/process-identity.js';
import { readRuntime } from '../runtime.js';
import { print, printJson } from '../output.js';

interface PageOptions extends CommonOptions {
  url?: string;
}

export function addPage(program: Command, environment: Environment): void {
  program
    .command('page')
    .summary('print the link of the status page')
    .description(
      'The status page opens by a link that holds a key; the browser keeps it as a cookie. The key ' +
        'opens the page alone: runs are changed by the spindle command.',
    )
    .option('--json', 'print JSON for machines')
    .option('--artifacts <dir>', 'artifacts folder (default: SPINDLE_ARTIFACTS, or ./artifacts)')
    .option(
      '--url <address>',
      'http://host:port of a page that "spindle up" did not start; its token is SPINDLE_TOKEN',
    )
    .action(async (options: PageOptions) => {
      const page = await linkOf(options, environment);
      if (options.json) printJson(JSON.stringify({ page }));
      else print(page);
    });
}

async function linkOf(options: PageOptions, environment: Environment): Promise<string> {
  const { url } = options;
  if (url !== undefined) {
    if (!/^https?:\/\//.test(url) || !URL.canParse(url))
      throw new SpindleError('INVALID_ARGUMENT', `--url: expected http://host:port, got "${url}".`);
    return pageLink(url, givenToken(environment));
  }
  const folder = artifactsFolder(options, environment);
  const runtime = await readRuntime(folder);
  if (!runtime?.http || !isAlive(runtime.pid))
    throw new SpindleError(
      'FAILED_PRECONDITION',
      `no mesh is running for ${folder}; start one with "npx spindle up", or name a page with ` +
        '--url.',
    );
  return pageLink(runtime.http, runtime.token);
}
