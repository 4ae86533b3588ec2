import { spawnSync } from 'node:child_process';
import { constants } from 'node:os';
import { existsSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Those that may want room on the disk. */
export const callsThatWrite = ['open', 'write', 'fsync', 'rename', 'link', 'mkdir'] as const;
export const calls = [...callsThatWrite, 'read', 'unlink'] as const;
export type Call = (typeof calls)[number];
export type Action = 'EIO' | 'ENOSPC' | 'kill' | 'stop' | 'torn';

/** The nth call of its kind, and the `times - 1` after it. */
export interface ShimFault {
  call: Call;
  nth: number;
  times: number;
  action: Action;
}

/** shim.c as a library, by which calls of one process fail. */
export class Shim {
  readonly #library: string;
  readonly #report: string;

  private constructor(library: string, report: string) {
    this.#library = library;
    this.#report = report;
  }

  /** Null where there is no C compiler, or none that makes a library that loads. */
  static build(folder: string): Shim | null {
    const source = fileURLToPath(new URL('shim.c', import.meta.url));
    const library = join(folder, 'shim.so');
    const built = spawnSync('cc', ['-shared', '-fPIC', '-O1', '-o', library, source, '-ldl']);
    if (built.status !== 0) return null;
    const loaded = spawnSync('true', { env: { ...process.env, LD_PRELOAD: library } });
    if (loaded.status !== 0 || loaded.stderr.length > 0) return null;
    return new Shim(library, join(folder, 'shim-report.txt'));
  }

  /** What a process is started with that is to meet the fault in files below `folder`. */
  async arm(
    { call, nth, times, action }: ShimFault,
    folder: string,
  ): Promise<Record<string, string>> {
    await rm(this.#report, { force: true });
    const code = action === 'EIO' || action === 'ENOSPC' ? constants.errno[action] : action;
    return {
      LD_PRELOAD: this.#library,
      FAULT_SHIM: `${call} ${nth} ${times} ${code}`,
      FAULT_SHIM_FOLDER: folder,
      FAULT_SHIM_REPORT: this.#report,
    };
  }

  /** The calls that were met since it was armed, with their files. */
  met(): string[] {
    if (!existsSync(this.#report)) return [];
    return readFileSync(this.#report, 'utf8').trim().split('\n');
  }
}
