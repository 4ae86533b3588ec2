/**
 * JSON text with its own checksum, for files that decide what happens next: {"sha256": …, "body":
 * …}. The body is checked byte by byte before anything of it is believed.
 */
import { createHash } from 'node:crypto';
import { SpindleError } from './errors.js';

const start = '{"sha256":"';
const middle = '","body":';
const end = '}';
const digestLength = 64;
const bodyStart = start.length + digestLength + middle.length;

/** `json` with its digest around it. */
export function sealed(json: string): string {
  const digest = createHash('sha256').update(json).digest('hex');
  return `${start}${digest}${middle}${json}${end}`;
}

/**
 * The text that was sealed. Text without a seal comes back as it is: older versions wrote such.
 * DATA_LOSS where the seal is broken. A flipped bit never makes a sealed text look like one without
 * a seal, since one of the seal's two fixed parts is still there.
 */
export function unsealed(text: string, where: string): string {
  const isSealed = text.startsWith(start) || text.startsWith(middle, bodyStart - middle.length);
  if (!isSealed) return text;
  const body = text.slice(bodyStart, -end.length);
  if (text === sealed(body)) return body;
  throw new SpindleError(
    'DATA_LOSS',
    `${where}: expected text of the digest that it names, got other text; it is damaged.`,
  );
}
