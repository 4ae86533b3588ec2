/** TensorBoard's events as bytes: the messages Event and Summary of TensorFlow's event.proto and summary.proto, those fields that we fill. */
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

/** The record that every event file begins with. */
export function versionEvent(wallTime: number): Buffer {
  return Buffer.concat([double(1, wallTime), bytes(3, Buffer.from(versionText))]);
}

export function encodeEvent({ wallTime, step, values }: TensorboardEvent): Buffer {
  const summary = Buffer.concat(values.map((value) => bytes(1, encodeValue(value))));
  return Buffer.concat([double(1, wallTime), varint(2, step), bytes(5, summary)]);
}

function encodeValue(value: SummaryValue): Buffer {
  const tag = bytes(1, Buffer.from(value.tag));
  if ('value' in value) return Buffer.concat([tag, float(2, value.value)]);
  const { width, height, png } = value;
  const rgb = 3;
  return Buffer.concat([tag, bytes(4, Buffer.concat([varint(1, height), varint(2, width), varint(3, rgb), bytes(4, png)]))]);
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

/** The step of an encoded event; 0 for one without, such as the version's. */
export function stepOf(event: Buffer): number {
  // wall_time is 9 bytes; field 2 follows where there is a step.
  if (event[9] !== 0x10) return 0;
  let step = 0n;
  for (let at = 10, shift = 0n; at < event.length; at++, shift += 7n) {
    const byte = event[at] ?? 0;
    step |= BigInt(byte & 127) << shift;
    if (byte < 128) break;
  }
  return Number(step);
}
