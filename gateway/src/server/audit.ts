/** Who started, stopped, changed and deleted runs: lines of the log, and of a file that stays. */
import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureError, type CallContext, type Logger, type ServiceHandlers } from '@spindle/kit';
import type { RunService } from '@spindle/proto';
import { isAudited, leastRoles } from './roles.js';

type Handlers = ServiceHandlers<typeof RunService>;
type Unary = (
  request: { runId?: string; dryRun?: boolean },
  context: CallContext,
) => Promise<object>;

/** In the artifacts folder, so that it outlives the runs that it tells of. */
export const auditFile = 'audit.jsonl';

/** The same handlers; what those do that change something is told once it is done or has failed. */
export function audited(handlers: Handlers, options: { root: string; logger: Logger }): Handlers {
  const wrapped: Record<string, unknown> = { ...handlers };
  for (const method of Object.keys(leastRoles) as (keyof typeof leastRoles)[])
    if (isAudited(method))
      wrapped[method] = withAudit(method, handlers[method] as unknown as Unary, options);
  return wrapped as Handlers;
}

function withAudit(
  action: string,
  handler: Unary,
  { root, logger }: { root: string; logger: Logger },
): Unary {
  return async (request, context) => {
    const { caller } = context;
    const tell = async (run: string, outcome: string): Promise<void> => {
      const entry = { caller: caller.name, role: caller.role, action, run, outcome };
      logger.info({ audit: entry }, 'audit');
      const line = `${JSON.stringify({ at: new Date().toISOString(), ...entry })}\n`;
      await appendFile(join(root, auditFile), line, { mode: 0o600 }).catch((error: unknown) =>
        logger.error({ err: error }, 'the audit log cannot be written'),
      );
    };
    const asked = request.runId ?? '';
    try {
      const answer = await handler(request, context);
      // A dry run leaves nothing behind.
      if (request.dryRun !== true) await tell(runOf(answer) ?? asked, 'done');
      return answer;
    } catch (error) {
      await tell(asked, ensureError(error).code);
      throw error;
    }
  };
}

function runOf(answer: object): string | undefined {
  return 'run' in answer ? (answer as { run?: { runId?: string } }).run?.runId : undefined;
}
