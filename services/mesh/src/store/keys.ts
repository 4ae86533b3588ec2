import { join } from 'node:path';
import type { ArtifactRef } from '@spindle/proto';
import { SpindleError } from '@spindle/kit';

const segment = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
const digest = /^sha256:([0-9a-f]{64})$/;

/** A key's path below `folder`; no key leaves the folder, whatever it says. */
export function keyPath(folder: string, key: string): string {
  const segments = key.split('/');
  if (segments.length > 16 || !segments.every((part) => segment.test(part))) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'key: expected up to 16 segments of letters, digits, ".", "_" and "-" joined by "/", ' +
        `got "${key}"`,
    );
  }
  return join(folder, ...segments);
}

/** The hex digits of an artifact's digest; INVALID_ARGUMENT where it is no SHA-256. */
export function digestHex(ref: ArtifactRef): string {
  const hex = digest.exec(ref.digest)?.[1];
  if (hex === undefined) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `artifact digest: expected "sha256:" and 64 lower-case hex digits, got "${ref.digest}"`,
    );
  }
  return hex;
}
