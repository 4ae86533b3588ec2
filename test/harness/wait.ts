/** Polls until `probe` gives something; the message names what never came. */
export async function until<T>(
  what: string,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs = 60_000,
): Promise<T> {
  const end = performance.now() + timeoutMs;
  let last: unknown;
  while (performance.now() < end) {
    try {
      const value = await probe();
      if (value !== undefined && value !== false) return value;
      last = undefined;
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(
    `${what}: not within ${timeoutMs / 1000} ` +
      `s${last === undefined ? '' : ` (${last instanceof Error ? last.message : JSON.stringify(last)})`}`,
  );
}
