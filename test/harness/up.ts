import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NodeChild } from './child.js';
import { cli, startCli, type CliResult } from './cli.js';
import { readJson } from './mesh.js';
import { until } from './wait.js';

export interface Runtime {
  pid: number;
  token: string;
  natsUrl: string;
  gateway: string;
  http: string;
  services: { name: string; pid: number; address: string }[];
}

/** A mesh as a person starts it: `spindle up` in a folder of its own. */
export class UpMesh {
  private constructor(
    readonly child: NodeChild,
    readonly artifacts: string,
    readonly runtime: Runtime,
  ) {}

  static async start(
    args: readonly string[] = [],
    env: Record<string, string> = {},
  ): Promise<UpMesh> {
    const artifacts = await mkdtemp(join(tmpdir(), 'spindle-artifacts-'));
    const child = startCli(['up', '--artifacts', artifacts, '--threads', '1', ...args], { env });
    await until('spindle up', () => {
      if (!child.running) throw new Error(child.tail());
      return child.stdout.includes('gRPC:') || undefined;
    });
    return new UpMesh(
      child,
      artifacts,
      (await readJson(join(artifacts, 'runtime.json'))) as Runtime,
    );
  }

  spindle(...args: string[]): Promise<CliResult> {
    return cli([...args, '--artifacts', this.artifacts], { timeoutMs: 600_000 });
  }

  /** How `spindle up` ended. */
  async stop(): Promise<number | NodeJS.Signals> {
    await this.child.stop('SIGTERM', 30_000);
    return this.child.exited;
  }

  async remove(): Promise<void> {
    await this.stop();
    await rm(this.artifacts, { recursive: true, force: true });
  }
}
