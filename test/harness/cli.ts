import { join } from 'node:path';
import { NodeChild, root } from './child.js';

export interface CliResult {
  code: number | NodeJS.Signals;
  stdout: string;
  stderr: string;
}

/** `npx spindle …` without npx: the same file, sooner. */
export function startCli(
  args: readonly string[],
  options: { env?: Record<string, string>; cwd?: string } = {},
): NodeChild {
  return new NodeChild(join(root, 'gateway/bin/spindle.js'), args, options);
}

export async function cli(
  args: readonly string[],
  options: { env?: Record<string, string>; cwd?: string; timeoutMs?: number } = {},
): Promise<CliResult> {
  const child = startCli(args, options);
  const timer = setTimeout(() => child.signal('SIGKILL'), options.timeoutMs ?? 120_000);
  try {
    return { code: await child.exited, stdout: child.stdout, stderr: child.stderr };
  } finally {
    clearTimeout(timer);
  }
}
