import { connectBus } from '@spindle/mesh';
import { createLogger, newToken } from '@spindle/kit';
import * as proto from '@spindle/proto';
import type { DescFile } from '@bufbuild/protobuf';
import { readdirSync } from 'node:fs';
import { connect, type OutgoingHttpHeaders } from 'node:http2';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NodeChild, root } from '../harness/child.js';
import { cli } from '../harness/cli.js';
import { Mesh } from '../harness/mesh.js';
import { until } from '../harness/wait.js';

/** Numbers of gRPC. */
const ok = 0;
const unimplemented = 12;
const unauthenticated = 16;

const members = ['gateway', 'sampler', 'scorer', 'trainer', 'evaluator'];
/** Every file of the contracts, so that a new service is in the list by itself. */
const files = Object.values(proto).filter(
  (value): value is DescFile =>
    typeof value === 'object' && 'kind' in value && value.kind === ('file' as string),
);
const rpcs = files
  .flatMap((file) => file.services)
  .flatMap(({ typeName, methods }) => methods.map(({ name }) => `/${typeName}/${name}`));
const reflection = ['v1', 'v1alpha'].map(
  (version) => `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`,
);

describe('the doors of a mesh', () => {
  let mesh: Mesh;
  beforeAll(async () => {
    // With a second rank there are the calls of ranks too.
    mesh = await Mesh.start({ env: { trainer: { SPINDLE_RANKS: '2' } } });
  });
  afterAll(() => mesh.stop());

  /** The status of a call with an empty request, as any program on this machine can make it. */
  function call(member: string, path: string, headers: OutgoingHttpHeaders): Promise<number> {
    const session = connect(`http://${mesh.address(member)}`);
    return new Promise<number>((resolve, reject) => {
      session.on('error', reject);
      const stream = session.request({
        ':method': 'POST',
        ':path': path,
        'content-type': 'application/grpc',
        te: 'trailers',
        ...headers,
      });
      const take = (found: Record<string, unknown>): void => {
        if (found['grpc-status'] !== undefined) resolve(Number(found['grpc-status']));
      };
      stream.on('response', take);
      stream.on('trailers', take);
      stream.on('error', reject);
      stream.resume();
      stream.end(Buffer.alloc(5));
    }).finally(() => session.destroy());
  }

  it('has every service of the contracts in its list', () => {
    const written = readdirSync(join(root, 'proto/spindle/v1'));
    expect(files.map(({ name }) => `${name.split('/').at(-1)}.proto`).sort()).toEqual(written);
    expect(rpcs.length).toBeGreaterThan(15);
  });

  it.each([...rpcs, ...reflection])('%s asks for the token', async (path) => {
    const right = { authorization: `Bearer ${mesh.token}` };
    const served = [];
    for (const member of members) {
      if (reflection.includes(path)) {
        // A stream that would go on with the right one.
        served.push(member);
      } else if ((await call(member, path, right)) !== unimplemented) {
        served.push(member);
        expect(await call(member, path, right), member).not.toBe(unauthenticated);
      }
    }
    expect(served).not.toEqual([]);
    for (const member of served) {
      for (const headers of [
        {},
        { authorization: `Bearer ${newToken()}` },
        { authorization: mesh.token },
        { authorization: `Basic ${mesh.token}` },
        { cookie: `token=${mesh.token}` },
        { ':authority': 'evil.example', origin: 'http://evil.example' },
        { ':authority': 'evil.example', authorization: `Bearer ${newToken()}` },
      ])
        expect(await call(member, path, headers), member).toBe(unauthenticated);
    }
  });

  it.each(members)('%s says whether it serves to whoever watches it', async (member) => {
    expect(await call(member, '/grpc.health.v1.Health/Check', {})).toBe(ok);
  });

  it('ranks show it as well', async () => {
    await until('a rank that follows', () => /a rank follows/.test(mesh.log('trainer')));
    const stranger = new NodeChild(join(root, 'services/trainer/dist/main.js'), [], {
      env: {
        SPINDLE_ARTIFACTS: mesh.artifacts,
        SPINDLE_RANK: '1',
        SPINDLE_WORLD_SIZE: '2',
        SPINDLE_RENDEZVOUS: mesh.address('trainer'),
        SPINDLE_THREADS: '1',
      },
    });
    expect(await stranger.exited).not.toBe(0);
    expect(stranger.stderr).toContain("expected the mesh's token, got none");
  });

  it('NATS lets nobody in without it', async () => {
    const logger = createLogger('stranger', { level: 'silent', pretty: false });
    const url = mesh.natsUrl;
    for (const token of [undefined, newToken()])
      await expect(connectBus({ url, token, name: 'stranger', logger })).rejects.toMatchObject({
        code: 'UNAUTHENTICATED',
        message: expect.stringContaining('refuses this token') as string,
      });
    const inAddress = url.replace('://', `://${mesh.token}@`);
    const bus = await connectBus({ url: inAddress, name: 'friend', logger });
    await bus.close();
  });

  it('a command without it says what to set, and with it works', async () => {
    const gateway = mesh.gatewayAddress;
    const without = await cli(['ls', '--gateway', gateway]);
    expect(without).toMatchObject({ code: 2, stdout: '' });
    expect(without.stderr).toMatch(/expected the mesh's token, got none; set SPINDLE_TOKEN/);
    expect(await mesh.spindle('ls', '--json')).toMatchObject({ code: 0, stderr: '' });
  });

  it('the token is in no log', () => {
    for (const member of members) expect(mesh.log(member)).not.toContain(mesh.token);
  });
});
