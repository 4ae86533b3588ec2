/** Every call of the public API by every role, at a real server; and what is kept of them. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  createClient,
  type ErrorCode,
  GrpcServer,
  localTransport,
  newToken,
  People,
  type Role,
  roles,
  type ServiceClient,
  type ServiceHandlers,
  SpindleError,
  tokenDigest,
} from '@spindle/kit';
import { RunService } from '@spindle/proto';
import { Command } from 'commander';
import { afterAll, beforeAll, describe, expect, it, test, vi } from 'vitest';
import { addToken } from '../cli/commands/token.js';
import { pageKey } from '../http/access.js';
import { routes } from '../http/routes.js';
import { startHttp } from '../http/server.js';
import { quiet } from '../testing/harness.js';
import { audited, auditFile } from './audit.js';
import type { leastRoles } from './roles.js';
import { leastRoleOf } from './roles.js';

type Method = keyof typeof leastRoles;
const methods = RunService.methods.map(({ localName }) => localName as Method);
/** Who may do what, once more and by hand. */
const reading: readonly string[] = ['getRun', 'listRuns', 'watchRun'];
const changing: readonly string[] = ['createRun', 'pauseRun', 'resumeRun', 'cancelRun'];

const folder = mkdtempSync(join(tmpdir(), 'spindle-roles-'));
const mesh = newToken();
const tokens: Record<Role, string> = {
  viewer: newToken(),
  operator: newToken(),
  admin: newToken(),
};
const file = join(folder, 'tokens');
writeFileSync(
  file,
  roles
    .map((role) => `${role}-1 ${role} sha256:${tokenDigest(tokens[role]).toString('hex')}\n`)
    .join(''),
);
const people = People.open(file);
const leastRole = leastRoleOf;

let server: GrpcServer;
let address: string;
beforeAll(async () => {
  const handlers: ServiceHandlers<typeof RunService> = {
    createRun: async ({ runId, dryRun }) => (dryRun ? {} : { run: { runId: `${runId}-made` } }),
    getRun: async () => ({}),
    listRuns: async () => ({}),
    watchRun: async function* () {
      yield {};
    },
    pauseRun: async () => ({}),
    resumeRun: async () => {
      throw new SpindleError('NOT_FOUND', 'there is no such run');
    },
    cancelRun: async () => ({}),
    deleteRun: async () => ({}),
  };
  server = new GrpcServer({ logger: quiet, token: mesh, people, leastRole });
  server.addService(RunService, audited(handlers, { root: folder, logger: quiet }));
  address = `127.0.0.1:${await server.listen('127.0.0.1:0')}`;
});
afterAll(async () => {
  await server.shutdown(0);
  rmSync(folder, { recursive: true, force: true });
});

async function call(
  token: string,
  use: (client: ServiceClient<typeof RunService>) => Promise<unknown>,
): Promise<ErrorCode | 'OK'> {
  const client = createClient(RunService, address, token);
  try {
    await use(client);
    return 'OK';
  } catch (error) {
    return error instanceof SpindleError ? error.code : 'INTERNAL';
  } finally {
    client.close();
  }
}

function callMethod(token: string, method: Method): Promise<ErrorCode | 'OK'> {
  return call(token, async (client) => {
    if (method !== 'watchRun') return client[method]({ runId: 'r1' });
    for await (const _ of client.watchRun({ runId: 'r1' })) return undefined;
    return undefined;
  });
}

describe.each(methods)('%s', (method) => {
  it.each([...roles, 'mesh'] as const)('by %s', async (who) => {
    const code = await callMethod(who === 'mesh' ? mesh : tokens[who], method);
    const isAllowed =
      who === 'mesh' ||
      who === 'admin' ||
      reading.includes(method) ||
      (who === 'operator' && changing.includes(method));
    if (!isAllowed) expect(code).toBe('PERMISSION_DENIED');
    else expect(code).toBe(method === 'resumeRun' ? 'NOT_FOUND' : 'OK');
  });
});

test('what is refused says by whom and for whom; a token that is unknown is refused as ever', async () => {
  const client = createClient(RunService, address, tokens.viewer);
  await expect(client.deleteRun({ runId: 'r1' })).rejects.toThrow(
    'DeleteRun: expected the token of an admin, got that of viewer-1, who is viewer.',
  );
  client.close();
  expect(await callMethod(newToken(), 'listRuns')).toBe('UNAUTHENTICATED');
  expect(leastRoleOf('/spindle.v1.RunService/Unknown')).toBe('admin');
});

test('"spindle token" prints a token and the line that lets it in', async () => {
  const printed: string[] = [];
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    printed.push(String(text));
    return true;
  });
  const program = new Command().exitOverride();
  addToken(program);
  await program.parseAsync(['token', 'ci', 'operator', '--json'], { from: 'user' });
  write.mockRestore();
  const { token, line } = JSON.parse(printed.join('')) as { token: string; line: string };
  const made = join(folder, 'made');
  writeFileSync(made, line);
  expect(line).not.toContain(token);
  expect(People.open(made)?.who(token)).toEqual({ name: 'ci', role: 'operator' });
});

test('the audit log has who changed what, and how it ended; looks and dry runs are not in it', async () => {
  const lines = (): Record<string, string>[] =>
    readFileSync(join(folder, auditFile), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, string>);
  const before = lines().length;
  await call(tokens.operator, (client) => client.createRun({ runId: 'a' }));
  await call(tokens.operator, (client) => client.createRun({ runId: 'b', dryRun: true }));
  await call(tokens.viewer, (client) => client.cancelRun({ runId: 'c' }));
  await call(tokens.operator, (client) => client.resumeRun({ runId: 'd' }));
  await call(mesh, (client) => client.deleteRun({ runId: 'e' }));
  const added = lines().slice(before);
  for (const { at } of added) expect(Date.parse(at ?? '')).toBeGreaterThan(0);
  const operator = { caller: 'operator-1', role: 'operator' };
  expect(added).toMatchObject([
    { ...operator, action: 'createRun', run: 'a-made', outcome: 'done' },
    { ...operator, action: 'resumeRun', run: 'd', outcome: 'NOT_FOUND' },
    { caller: 'mesh', role: 'admin', action: 'deleteRun', run: 'e', outcome: 'done' },
  ]);
  expect(statSync(join(folder, auditFile)).mode & 0o777).toBe(0o600);
});

test('every route of the page is open to every role, by token and by link, and to nobody else', async () => {
  const behind = {} as Pick<Parameters<typeof startHttp>[0], 'orchestrator' | 'api' | 'bus'>;
  const page = await startHttp({
    address: '127.0.0.1:0',
    token: mesh,
    people,
    transport: localTransport,
    logger: quiet,
    ...behind,
  });
  const ask = (path: string, headers: Record<string, string>): Promise<number | undefined> =>
    new Promise((resolve, reject) => {
      const sent = request({ host: '127.0.0.1', port: page.port, path, headers }, (response) => {
        response.resume();
        resolve(response.statusCode);
      });
      sent.on('error', reject);
      sent.end();
    });
  try {
    for (const { path } of routes) {
      for (const token of Object.values(tokens)) {
        const cookie = `spindle_page_${page.port}=${pageKey(token)}`;
        for (const headers of [{ authorization: `Bearer ${token}` }, { cookie }])
          expect(await ask(path, headers)).not.toBe(401);
      }
      const cookie = `spindle_page_${page.port}=${pageKey(newToken())}`;
      for (const headers of [{ authorization: `Bearer ${newToken()}` }, { cookie }])
        expect(await ask(path, headers)).toBe(401);
    }
    expect(await ask(`/?token=${pageKey(tokens.viewer)}`, {})).toBe(303);
  } finally {
    await page.stop();
  }
});
