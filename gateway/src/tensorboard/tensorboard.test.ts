import { appendFile, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { stepNumbers, type StepNumbers } from '@spindle/proto';
import { crc32c, maskedCrc32c } from './crc32c.js';
import { encodeEvent, encodeRestart, readEvent, versionEvent } from './event.js';
import { frame, readRecords, RecordFile } from './record-file.js';
import { TensorboardLog } from './run-log.js';

const folder = await mkdtemp(join(tmpdir(), 'spindle-tensorboard-'));
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Any protobuf message as fields, by the wire format alone: independent of the encoder. */
function fields(
  message: Buffer,
): { field: number; wire: number; value: number | bigint | Buffer }[] {
  const out: { field: number; wire: number; value: number | bigint | Buffer }[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++]!;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const key = Number(varint());
    const [field, wire] = [key >> 3, key & 7];
    if (wire === 0) out.push({ field, wire, value: varint() });
    else if (wire === 1) out.push({ field, wire, value: message.readDoubleLE((at += 8) - 8) });
    else if (wire === 5) out.push({ field, wire, value: message.readFloatLE((at += 4) - 4) });
    else {
      const length = Number(varint());
      out.push({ field, wire, value: message.subarray(at, (at += length)) });
    }
  }
  return out;
}
const field = (message: Buffer, number: number) =>
  fields(message)
    .filter((one) => one.field === number)
    .map((one) => one.value);

const stepOf = (event: Buffer): number => readEvent(event).step;

const metrics = (step: number, loss = 0.5): StepNumbers => ({
  step,
  loss,
  errorReal: 0.125,
  errorGenerated: 0.25,
  opponentErrorReal: 0.125,
  opponentErrorGenerated: 0.125,
  implicitAccuracy: 0.75,
  loserScale: 1,
  gradNorm: 1,
  learningRate: 1e-4,
  beta: 2000,
  seconds: 1,
});

describe('CRC-32C', () => {
  it('gives the values of RFC 3720 and of its definition', () => {
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
    expect(crc32c(Buffer.alloc(32))).toBe(0x8a9136aa);
    expect(crc32c(Buffer.alloc(32, 0xff))).toBe(0x62a8ab43);
    expect(crc32c(Buffer.from(Array.from({ length: 32 }, (_, i) => i)))).toBe(0x46dd794e);
    expect(crc32c(Buffer.alloc(0))).toBe(0);
  });
  it('is masked by a turn of 15 bits and a constant', () => {
    const crc = 0xe3069283n;
    const turned = ((crc >> 15n) | (crc << 17n)) & 0xffffffffn;
    expect(maskedCrc32c(Buffer.from('123456789'))).toBe(
      Number((turned + 0xa282ead8n) & 0xffffffffn),
    );
  });
});

describe('records', () => {
  it('are length, checksum, data, checksum', () => {
    const bytes = frame(Buffer.from('abc'));
    expect(bytes.length).toBe(8 + 4 + 3 + 4);
    expect(bytes.readBigUInt64LE()).toBe(3n);
    expect(bytes.readUInt32LE(8)).toBe(maskedCrc32c(bytes.subarray(0, 8)));
    expect(bytes.subarray(12, 15).toString()).toBe('abc');
    expect(bytes.readUInt32LE(15)).toBe(maskedCrc32c(Buffer.from('abc')));
  });

  it('end where one is torn or damaged, and are appended to from there', async () => {
    const path = join(folder, 'x/records');
    const { file } = await RecordFile.open(path);
    for (const text of ['one', 'two']) file.append(Buffer.from(text));
    await file.flush();
    const whole = (await stat(path)).size;
    await appendFile(path, frame(Buffer.from('three')).subarray(0, 14));
    const again = await RecordFile.open(path);
    expect(again.records.map(String)).toEqual(['one', 'two']);
    expect((await stat(path)).size).toBe(whole);
    again.file.append(Buffer.from('four'));
    await again.file.flush();
    expect(readRecords(await readFile(path)).records.map(String)).toEqual(['one', 'two', 'four']);
    const damaged = await readFile(path);
    damaged[13]! ^= 1;
    expect(readRecords(damaged).records).toEqual([]);
  });
});

describe('events', () => {
  it('are the messages that TensorBoard reads, field by field', () => {
    const version = versionEvent(1.5);
    expect(fields(version)).toEqual([
      { field: 1, wire: 1, value: 1.5 },
      { field: 3, wire: 2, value: Buffer.from('brain.Event:2') },
    ]);
    const png = Buffer.from('png');
    const event = encodeEvent({
      wallTime: 1e9,
      step: 300,
      values: [
        { tag: 'train/loss', value: 0.25 },
        { tag: 'samples/0', png, width: 64, height: 32 },
      ],
    });
    expect(field(event, 1)).toEqual([1e9]);
    expect(field(event, 2)).toEqual([300n]);
    const [scalar, image] = field(field(event, 5)[0] as Buffer, 1) as [Buffer, Buffer];
    expect(fields(scalar)).toEqual([
      { field: 1, wire: 2, value: Buffer.from('train/loss') },
      { field: 2, wire: 5, value: 0.25 },
    ]);
    expect(fields(field(image, 4)[0] as Buffer)).toEqual([
      { field: 1, wire: 0, value: 32n },
      { field: 2, wire: 0, value: 64n },
      { field: 3, wire: 0, value: 3n },
      { field: 4, wire: 2, value: png },
    ]);
    expect([
      stepOf(event),
      stepOf(version),
      stepOf(encodeEvent({ wallTime: 0, step: 5, values: [] })),
    ]).toEqual([300, 0, 5]);
  });

  it('of a run go on after a restart, without a step twice or one missing', async () => {
    const directory = join(folder, 'run');
    const log = new TensorboardLog(directory, 1_700_000_000_000);
    await log.steps('spin1', [metrics(1, 1)]);
    await log.steps('spin1', [metrics(1, 1), metrics(2, 2)]);
    const path = join(directory, 'tensorboard/spin1/events.out.tfevents.1700000000.spindle');
    // Step 3 was logged elsewhere but did not reach this file.
    const later = new TensorboardLog(directory, 1_700_000_000_000);
    await later.steps(
      'spin1',
      [1, 2, 3].map((step) => metrics(step, step)),
    );
    await later.steps('spin1', [metrics(4, 4)]);
    const { records } = readRecords(await readFile(path));
    expect(field(records[0]!, 3).map(String)).toEqual(['brain.Event:2']);
    expect(records.slice(1).map(stepOf)).toEqual([1, 2, 3, 4]);
    const values = field(field(records[4]!, 5)[0] as Buffer, 1) as Buffer[];
    expect(values.map((value) => String(field(value, 1)[0]))).toEqual(
      stepNumbers.slice(1).map(({ name }) => `train/${name.replace(/^seconds$/, '$&_per_step')}`),
    );
    expect(field(values[0]!, 2)).toEqual([4]);
  });

  it('after a rollback begin anew where it went back to, also for a log that is opened later', async () => {
    const directory = join(folder, 'rolled-back');
    const log = new TensorboardLog(directory, 1_700_000_000_000);
    await log.steps(
      'spin1',
      [1, 2, 3, 200].map((step) => metrics(step)),
    );
    await log.rewind('spin1', 2);
    const later = new TensorboardLog(directory, 1_700_000_000_000);
    await later.steps(
      'spin1',
      [1, 2, 3].map((step) => metrics(step, 9)),
    );
    // Nothing to take back.
    await later.rewind('spin1', 3);
    const { records } = readRecords(
      await readFile(join(directory, 'tensorboard/spin1/events.out.tfevents.1700000000.spindle')),
    );
    expect(records.slice(1).map(stepOf)).toEqual([1, 2, 3, 200, 3, 3]);
    const restart = records[5]!;
    expect(fields(restart).map(({ field: number, wire }) => [number, wire])).toEqual([
      [1, 1],
      [2, 0],
      [7, 2],
    ]);
    // SessionLog.status = START
    expect(fields(field(restart, 7)[0] as Buffer)).toEqual([{ field: 1, wire: 0, value: 1n }]);
    expect(records.map(readEvent).filter((event) => event.restart)).toEqual([
      { step: 3, restart: true },
    ]);
    expect(readEvent(encodeRestart(0, 300))).toEqual({ step: 300, restart: true });
    expect(field((field(field(records[6]!, 5)[0] as Buffer, 1) as Buffer[])[0]!, 2)).toEqual([9]);
  });

  it('of evaluations lie over the iterations, with images; a baseline has its own folder', async () => {
    const directory = join(folder, 'judged');
    const log = new TensorboardLog(directory, 1_700_000_000_000);
    const metric = {
      metric: 'pick',
      mean: 21.5,
      median: 21,
      standardError: 0.1,
      winRate: 0.625,
      differenceLow: 0,
      differenceHigh: 1,
      n: 8,
    };
    const png = Buffer.alloc(24);
    png.writeUInt32BE(64, 16);
    png.writeUInt32BE(48, 20);
    await log.evaluation({ model: 'spin2', metrics: [metric] }, [{ name: '0', png }]);
    await log.evaluation({ model: 'sft', metrics: [metric] }, []);
    const read = async (name: string) =>
      readRecords(
        await readFile(
          join(directory, 'tensorboard', name, 'events.out.tfevents.1700000000.spindle'),
        ),
      ).records;
    const [, event] = await read('evaluation');
    expect(stepOf(event!)).toBe(2);
    const values = field(field(event!, 5)[0] as Buffer, 1) as Buffer[];
    expect(values.map((value) => String(field(value, 1)[0]))).toEqual([
      ...['mean', 'median', 'win_rate', 'difference_low', 'difference_high'].map(
        (name) => `pick/${name}`,
      ),
      'samples/0',
    ]);
    expect(field(field(values[5]!, 4)[0] as Buffer, 2)).toEqual([64n]);
    expect(await read('evaluation-sft')).toHaveLength(2);
  });
});
