import { logger } from '@spindle/kit/testing';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { JobSchema, type Job } from '@spindle/proto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Bus, ProvisionOptions } from '../nats/bus.js';
import { connectBus } from '../nats/connect.js';
import { startNatsServer, type NatsServer } from '../nats/server.js';

export interface TestNats {
  server: NatsServer;
  dir: string;
  /** Connected; closed with the harness. */
  bus(name?: string): Promise<Bus>;
  provisioned(options?: ProvisionOptions): Promise<Bus>;
  /** Kills the server with SIGKILL and starts it again on the same port and data (or on none). */
  crash(options?: { wipe?: boolean }): Promise<void>;
  close(): Promise<void>;
}

/**
 * A real nats-server of its own, on a free port. SPINDLE_NATS_SERVER names another binary than the
 * one on PATH.
 */
export async function startTestNats(): Promise<TestNats> {
  const dir = await mkdtemp(join(tmpdir(), 'spindle-nats-'));
  const binary = process.env['SPINDLE_NATS_SERVER'];
  const start = (port = 0): Promise<NatsServer> =>
    startNatsServer({ dir, port, logger, ...(binary === undefined ? {} : { binary }) });
  const buses: Bus[] = [];
  const nats: TestNats = {
    server: await start(),
    dir,
    async bus(name = 'test') {
      const bus = await connectBus({ url: nats.server.url, name, logger });
      buses.push(bus);
      return bus;
    },
    async provisioned(options = {}) {
      const bus = await nats.bus();
      await bus.provision(options);
      return bus;
    },
    async crash({ wipe = false } = {}) {
      const { server } = nats;
      process.kill(server.pid, 'SIGKILL');
      await server.stop();
      if (wipe) await rm(join(dir, 'jetstream'), { recursive: true, force: true });
      nats.server = await start(Number(new URL(server.url).port));
    },
    async close() {
      await Promise.all(buses.map((bus) => bus.close()));
      await nats.server.stop();
      await rm(dir, { recursive: true, force: true });
    },
  };
  return nats;
}

export function sampleJob(
  key: string,
  runId = 'r1',
  work: MessageInitShape<typeof JobSchema>['work'] = { case: 'sample', value: {} },
): Job {
  return create(JobSchema, { key, runId, work });
}
