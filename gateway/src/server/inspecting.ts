import { access } from 'node:fs/promises';
import { ensureError, SpindleError, type CallOptions } from '@spindle/kit';
import { modelPath } from '../config/model-path.js';

const timeoutMs = 60_000;

/** Asks a service what lies at `path`; what is wrong is told with the config's key before it. */
export async function inspecting<T>(
  key: string,
  path: string,
  call: (options: CallOptions) => Promise<T>,
  signal: AbortSignal,
): Promise<T> {
  const { directory } = modelPath(path);
  await access(directory).catch(() => {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${key}: expected a folder, got "${directory}", which does not exist.`,
    );
  });
  try {
    return await call({ signal, timeoutMs });
  } catch (thrown) {
    const error = ensureError(thrown);
    throw new SpindleError(error.code, `${key}: ${error.message}`, { cause: error });
  }
}
