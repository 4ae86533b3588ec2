/**
 * TensorBoard's events as bytes: the messages Event and Summary of TensorFlow's event.proto and
 * summary.proto, those fields that we fill.
 */
export interface ScalarValue {
  tag: string;
  value: number;
}

export interface ImageValue {
  tag: string;
  png: Uint8Array;
  width: number;
  height: number;
}

export type SummaryValue = ScalarValue | ImageValue;

export interface TensorboardEvent {
  /** Seconds since 1970. */
  wallTime: number;
  step: number;
  values: readonly SummaryValue[];
}

const versionText = 'brain.Event:2';
/** Field of an event; the only session log that we write is a restart. */
const sessionLog = 7;

/** The record that every event file begins with. */
export function versionEvent(wallTime: number): Buffer {
  return Buffer.concat([double(1, wallTime), bytes(3, Buffer.from(versionText))]);
}

export function encodeEvent({ wallTime, step, values }: TensorboardEvent): Buffer {
  const summary = Buffer.concat(values.map((value) => bytes(1, encodeValue(value))));
  return Buffer.concat([double(1, wallTime), varint(2, step), bytes(5, summary)]);
}

/**
 * SessionLog START: on reading it TensorBoard forgets what the file has said of this step and later
 * ones.
 */
export function encodeRestart(wallTime: number, step: number): Buffer {
  const start = 1;
  return Buffer.concat([double(1, wallTime), varint(2, step), bytes(sessionLog, varint(1, start))]);
}

function encodeValue(value: SummaryValue): Buffer {
  const tag = bytes(1, Buffer.from(value.tag));
  if ('value' in value) return Buffer.concat([tag, float(2, value.value)]);
  const { width, height, png } = value;
  const rgb = 3;
  return Buffer.concat([
    tag,
    bytes(4, Buffer.concat([varint(1, height), varint(2, width), varint(3, rgb), bytes(4, png)])),
  ]);
}

// Wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
function key(field: number, wire: number): Buffer {
  return Buffer.from([(field << 3) | wire]);
}

function plainVarint(value: number): Buffer {
  const out: number[] = [];
  let rest = BigInt(value);
  for (; rest > 127n; rest >>= 7n) out.push(Number(rest & 127n) | 128);
  return Buffer.from([...out, Number(rest)]);
}

function varint(field: number, value: number): Buffer {
  return Buffer.concat([key(field, 0), plainVarint(value)]);
}

function double(field: number, value: number): Buffer {
  const out = Buffer.alloc(8);
  out.writeDoubleLE(value);
  return Buffer.concat([key(field, 1), out]);
}

function float(field: number, value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeFloatLE(value);
  return Buffer.concat([key(field, 5), out]);
}

function bytes(field: number, value: Uint8Array): Buffer {
  return Buffer.concat([key(field, 2), plainVarint(value.length), value]);
}

/**
 * Of an encoded event of ours: its step (0 for one without, such as the version's), and whether it
 * is a restart at that step.
 */
export function readEvent(event: Buffer): { step: number; restart: boolean } {
  // wall_time is 9 bytes; field 2 follows where there is a step.
  if (event[9] !== 0x10) return { step: 0, restart: false };
  let step = 0n;
  let at = 10;
  for (let shift = 0n; at < event.length; shift += 7n) {
    const byte = event[at++] ?? 0;
    step |= BigInt(byte & 127) << shift;
    if (byte < 128) break;
  }
  return { step: Number(step), restart: event[at] === key(sessionLog, 2)[0] };
}
