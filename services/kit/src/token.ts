/** The token of a mesh: who shows it may do all that the mesh's user may. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { ensureError, SpindleError } from './errors.js';

/** Fits into a header, a URL and nats-server's config as it is; 22 of base64 are 128 bits. */
const form = /^[A-Za-z0-9._~+/=-]{22,512}$/;

/** Has it the form of one? */
export function isToken(text: string): boolean {
  return form.test(text);
}

/** A fresh token of 256 random bits, in base64url. */
export function newToken(): string {
  return randomBytes(32).toString('base64url');
}

/** In a time that says nothing about where the two differ. */
export function sameToken(given: string, expected: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(given), digest(expected));
}

/**
 * The token that SPINDLE_TOKEN holds, or the file that SPINDLE_TOKEN_FILE names; undefined where
 * neither is set. No message repeats what was there.
 */
export function readToken(variables: {
  SPINDLE_TOKEN?: string | undefined;
  SPINDLE_TOKEN_FILE?: string | undefined;
}): string | undefined {
  const { SPINDLE_TOKEN: given = '', SPINDLE_TOKEN_FILE: file = '' } = variables;
  if (given !== '') return checked(given, 'SPINDLE_TOKEN');
  if (file === '') return undefined;
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    const reason = ensureError(cause).message;
    throw new SpindleError('INVALID_ARGUMENT', `SPINDLE_TOKEN_FILE: cannot be read: ${reason}`, {
      cause,
    });
  }
  return checked(text.trim(), `SPINDLE_TOKEN_FILE: ${file}`);
}

function checked(token: string, where: string): string {
  if (form.test(token)) return token;
  throw new SpindleError(
    'INVALID_ARGUMENT',
    `${where}: expected 22 to 512 letters, digits and "._~+/=-", got ${token.length} characters ` +
      'that are not; "openssl rand -hex 32" makes a token.',
  );
}
