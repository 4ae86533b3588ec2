/** A service's JSON log line for people: "12:03:04 sampler warn  what happened". */
const order = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'];

/** Null for lines below `level`. Lines that are no JSON (a crash's last words) always show. */
export function logLine(name: string, line: string, level: string): string | null {
  let entry: Record<string, unknown>;
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value !== 'object' || value === null) return `${name}: ${line}`;
    entry = value as Record<string, unknown>;
  } catch {
    return line.trim() === '' ? null : `${name}: ${line}`;
  }
  const own = typeof entry['level'] === 'string' ? entry['level'] : 'info';
  if (order.indexOf(own) < order.indexOf(level)) return null;
  const time = typeof entry['time'] === 'string' ? entry['time'].slice(11, 19) : '';
  const error = entry['err'] as { message?: unknown } | undefined;
  const cause = typeof error?.message === 'string' ? `: ${error.message}` : '';
  return (
    `${time} ${name.padEnd(9)} ${own.padEnd(5)} ` +
    `${typeof entry['msg'] === 'string' ? entry['msg'] : ''}${cause}`
  );
}
