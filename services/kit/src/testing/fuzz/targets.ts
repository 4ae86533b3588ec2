/** What `npm run fuzz` gives to the readers of this package. */
import { z } from 'zod';
import { parseYamlFile } from '../../config.js';
import { SpindleError } from '../../errors.js';
import { readSafetensors, readSafetensorsHeader } from '../../safetensors/read.js';
import { asNumbers } from '../../safetensors/values.js';
import { writeSafetensors } from '../../safetensors/write.js';
import { sealed, unsealed } from '../../sealed.js';
import { Scratch } from './scratch.js';
import type { FuzzTarget } from './target.js';

const text = (value: string): Buffer => Buffer.from(value);
const scratch = new Scratch();

/** Of every kind that configs have. */
const schema = z.strictObject({
  name: z.string().min(1),
  iterations: z.int().min(1).max(100).default(3),
  ratio: z.number().gt(0).optional(),
  train: z.strictObject({ schedule: z.enum(['constant', 'linear']).default('linear') }).optional(),
  metrics: z.array(z.strictObject({ kind: z.enum(['clip', 'aesthetic']) })).optional(),
  overrides: z.record(z.string(), z.union([z.number(), z.string(), z.boolean()])).optional(),
  stop: z.union([z.literal(false), z.strictObject({ patience: z.int() })]).optional(),
});

function safetensors(json: string, data = 0): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(json)));
  return Buffer.concat([length, text(json), Buffer.alloc(data)]);
}

const yaml = `name: x # a run
iterations: 2
train: { schedule: linear }
metrics:
  - kind: clip
  - &a
    kind: aesthetic
overrides: { "a": 1, b: true, c: [x] }
stop: |
  text
`;

export const targets: readonly FuzzTarget[] = [
  {
    name: 'safetensors',
    seeds: () => [
      writeSafetensors(
        new Map([
          ['a', { dtype: 'F32', shape: [2, 2], data: Buffer.alloc(16) }],
          ['b.weight', { dtype: 'I64', shape: [1], data: Buffer.alloc(8) }],
          ['c', { dtype: 'BF16', shape: [0, 3], data: Buffer.alloc(0) }],
        ]),
        { format: 'pt' },
      ),
      safetensors('{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1),
    ],
    words: ['"dtype":', '"shape":', '"data_offsets":[0,', '__metadata__', '"F16"', '"BOOL"', '[0]'],
    hostile: () => [
      safetensors(
        `{"a":{"dtype":"F32","shape":[${'9007199254740991,'.repeat(600_000)}1],"data_offsets":[0,4]}}`,
        4,
      ),
      safetensors(`{"a":${'['.repeat(1 << 20)}${']'.repeat(1 << 20)}}`),
      safetensors(
        `{${Array.from({ length: 100_000 }, (_, i) => `"${i}":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`).join()}}`,
      ),
      safetensors(`{"a"${' '.repeat(1 << 20)}:1}`),
      safetensors(`{"__metadata__":{"a":"${'\\"'.repeat(1 << 20)}"}}`),
    ],
    read: (input) => {
      const { tensors } = readSafetensors(input, 'a.safetensors');
      for (const tensor of tensors.values()) asNumbers(tensor);
      readSafetensorsHeader(scratch.file('a.safetensors', input));
    },
  },
  {
    name: 'config-file',
    seeds: () =>
      [yaml, '{"name":"x","metrics":[{"kind":"clip"}],"stop":false}', '# nothing\n'].map(text),
    words: [
      ...['name: ', 'iterations: ', 'metrics:\n  - ', 'kind: ', '? ', '- ', ': ', '# ', '---\n'],
      ...['&a ', '*a', '<<: *a', '!!str ', '!!binary ', '| ', '>-\n', '%YAML 1.1\n', '...\n'],
    ],
    hostile: () =>
      [
        ...['['.repeat(1 << 20), '- '.repeat(1 << 19), '? '.repeat(1 << 19), '{'.repeat(1 << 20)],
        Array.from({ length: 80_000 }, (_, i) => `k${i}: 1`).join('\n'),
        `a: &a [x,x]\n${Array.from({ length: 9000 }, (_, i) => `b${i}: &b${i} [*a,*a]`).join('\n')}`,
        `? ${'&a '.repeat(1 << 18)}`,
        '\t'.repeat(1 << 20),
        '"'.repeat(1 << 20),
        `name: ${'x'.repeat(1 << 20)}`,
      ].map(text),
    read: (input) => parseYamlFile(schema, scratch.file('run.yaml', input)),
  },
  {
    name: 'sealed',
    seeds: () => [text(sealed('{"a":[1,2,3]}')), text('{"a":1}')],
    words: ['{"sha256":"', '","body":', '}'],
    read: (input) => {
      const body = unsealed(input.toString('utf8'), 'run.json');
      try {
        JSON.parse(body);
      } catch (cause) {
        throw new SpindleError('DATA_LOSS', 'run.json: expected JSON', { cause });
      }
    },
  },
];
