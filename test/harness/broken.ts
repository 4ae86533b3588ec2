import { cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { scenes } from './files.js';

type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

/** A safetensors file whose header says what `change` makes of it; the data stays. */
export async function rewriteHeader(file: string, change: (header: Header) => void): Promise<void> {
  const bytes = await readFile(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Header;
  change(header);
  await writeFile(file, withHeader(JSON.stringify(header), bytes.subarray(8 + length)));
}

export function withHeader(
  header: string,
  data: Uint8Array,
  length = Buffer.byteLength(header),
): Buffer {
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(length));
  return Buffer.concat([size, Buffer.from(header), data]);
}

/** A sound file that lacks one tensor: the one whose bytes come last. */
export async function dropLastTensor(file: string): Promise<void> {
  const bytes = await readFile(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Header;
  const [name, entry] = Object.entries(header)
    .filter(([, value]) => Array.isArray(value.data_offsets))
    .sort(([, x], [, y]) => y.data_offsets[0] - x.data_offsets[0])[0]!;
  Reflect.deleteProperty(header, name);
  await writeFile(
    file,
    withHeader(
      JSON.stringify(header),
      bytes.subarray(8 + length, 8 + length + entry.data_offsets[0]),
    ),
  );
}

/** Every value of a half-precision tensor becomes infinity. */
export async function fillWithInfinity(file: string, name: string): Promise<void> {
  const bytes = await readFile(file);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, start).toString()) as Header;
  const {
    dtype,
    data_offsets: [from, to],
  } = header[name]!;
  if (dtype !== 'F16') throw new Error(`${name}: expected F16, got ${dtype}`);
  for (let at = start + from; at < start + to; at += 2) bytes.writeUInt16LE(0x7c00, at);
  await writeFile(file, bytes);
}

export async function editJson(
  file: string,
  change: (value: Record<string, unknown>) => void,
): Promise<void> {
  const value = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>;
  change(value);
  await writeFile(file, JSON.stringify(value));
}

/** A copy of the demo's base model to damage. */
export async function copyModel(folder: string): Promise<string> {
  const model = join(folder, 'model');
  await cp(join(scenes, 'tiny-sd'), model, { recursive: true });
  return model;
}

/** The first `count` images of the demo's data in a folder of their own. */
export async function copyData(folder: string, count: number): Promise<string> {
  const data = join(folder, 'data');
  await mkdir(data, { recursive: true });
  const lines = (await readFile(join(scenes, 'train/metadata.jsonl'), 'utf8'))
    .split('\n')
    .slice(0, count);
  await writeFile(join(data, 'metadata.jsonl'), `${lines.join('\n')}\n`);
  for (const line of lines) {
    const { file_name: name } = JSON.parse(line) as { file_name: string };
    await cp(join(scenes, 'train', name), join(data, name));
  }
  return data;
}

export const unetWeights = (model: string): string =>
  join(model, 'unet/diffusion_pytorch_model.safetensors');
