/** What the command prints goes through here, so that no data steers a terminal. */
import { printable, printableJson } from '@spindle/kit';

/** A result for people. */
export function print(text: string): void {
  process.stdout.write(`${printable(text)}\n`);
}

/** A result for machines, on one line. */
export function printJson(json: string): void {
  process.stdout.write(`${printableJson(json)}\n`);
}

/** Everything else. */
export function tell(text: string): void {
  process.stderr.write(`${printable(text)}\n`);
}
