/** Who may call beside the mesh itself: people and programs with tokens and roles of their own. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { ensureError, SpindleError } from './errors.js';
import type { Logger } from './logger.js';
import { isToken } from './token.js';

/** Each may do what those before it may. */
export const roles = ['viewer', 'operator', 'admin'] as const;
/** How far a caller's token reaches. */
export type Role = (typeof roles)[number];

/** Who makes a call. */
export interface Caller {
  name: string;
  role: Role;
}

/** Does the role reach as far as `least`? */
export function reaches(role: Role, least: Role): boolean {
  return roles.indexOf(role) >= roles.indexOf(least);
}

/** What is kept of a token: it says nothing of it. */
export function tokenDigest(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}

/** The token that an Authorization header shows. */
export function bearerOf(header: string | undefined): string | undefined {
  return /^bearer +(\S+) *$/i.exec(header ?? '')?.[1];
}

interface Entry extends Caller {
  digest: Buffer;
}

const lookMs = 10_000;

/**
 * A file of lines "NAME ROLE TOKEN", where "sha256:" and 64 hex digits may stand for the token.
 * What changes in it counts within ten seconds.
 */
export class People {
  readonly #file: string;
  #entries: readonly Entry[];
  #told = '';

  private constructor(file: string) {
    this.#file = file;
    this.#entries = readEntries(file);
  }

  /** Undefined where SPINDLE_TOKENS_FILE is not set; INVALID_ARGUMENT names what is wrong in it. */
  static open(file: string | undefined): People | undefined {
    return file === undefined || file === '' ? undefined : new People(file);
  }

  /** Whose token it is; in a time that says nothing of those of others. */
  who(token: string): Caller | undefined {
    const digest = tokenDigest(token);
    return this.where((entry) => timingSafeEqual(entry, digest));
  }

  /** The first whose token's digest is meant; all are asked. */
  where(isMeant: (digest: Buffer) => boolean): Caller | undefined {
    const [found] = this.#entries.filter(({ digest }) => isMeant(digest));
    return found && { name: found.name, role: found.role };
  }

  /** Looks at the file every ten seconds; the answer ends that. */
  watch(logger: Logger): () => void {
    const timer = setInterval(() => this.look(logger), lookMs);
    timer.unref();
    return () => clearInterval(timer);
  }

  /** Takes up what is new in the file; one that cannot be read changes nothing. */
  look(logger: Logger): void {
    try {
      this.#entries = readEntries(this.#file);
      this.#told = '';
    } catch (thrown) {
      const { message } = ensureError(thrown);
      if (message !== this.#told) logger.error({ reason: message }, 'tokens stay those of before');
      this.#told = message;
    }
  }
}

function readEntries(file: string): Entry[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw invalid(`SPINDLE_TOKENS_FILE: cannot be read: ${ensureError(cause).message}`, cause);
  }
  const entries: Entry[] = [];
  for (const [i, line] of text.split('\n').entries()) {
    if (/^\s*(#.*)?$/.test(line)) continue;
    const entry = readEntry(line, `${file}:${i + 1}`);
    if (entries.some(({ name }) => name === entry.name))
      throw invalid(`${file}:${i + 1}: expected a name once, got "${entry.name}" again.`);
    if (entries.some(({ digest }) => digest.equals(entry.digest)))
      throw invalid(`${file}:${i + 1}: expected a token of its own, got that of another line.`);
    entries.push(entry);
  }
  return entries;
}

/** No message repeats a token. */
function readEntry(line: string, where: string): Entry {
  const [name = '', given = '', token = '', ...more] = line.trim().split(/\s+/);
  const role = roles.find((one) => one === given);
  if (more.length > 0 || token === '')
    throw invalid(`${where}: expected "NAME ROLE TOKEN", got ${3 + more.length} words or fewer.`);
  if (!/^[A-Za-z0-9._@-]{1,64}$/.test(name))
    throw invalid(`${where}: expected a name of letters, digits and "._@-", got another one.`);
  if (role === undefined)
    throw invalid(`${where}: expected a role (${roles.join(', ')}), got another word.`);
  const hashed = /^sha256:([0-9a-f]{64})$/.exec(token)?.[1];
  if (hashed !== undefined) return { name, role, digest: Buffer.from(hashed, 'hex') };
  if (!isToken(token))
    throw invalid(
      `${where}: expected a token of 22 to 512 letters, digits and "._~+/=-", or "sha256:" and 64 ` +
        'hex digits.',
    );
  return { name, role, digest: tokenDigest(token) };
}

function invalid(message: string, cause?: unknown): SpindleError {
  return new SpindleError('INVALID_ARGUMENT', message, { cause });
}
