// What `npm run bench` measures, and the command lines of both programs.
import { basename } from 'node:path';

const demo = 'examples/scenes/tiny-sd';
const both = ['float32', 'bfloat16'];

/**
 * Tasks of docs/PERFORMANCE.md's table. `small` and `sd15` are configurations with random weights,
 * the same for both programs.
 */
const groups = [
  { task: 'spin_step', model: 'small', batch: 4, precisions: both },
  { task: 'spin_step', model: demo, batch: 32, precisions: both },
  { task: 'unet_forward', model: 'small', batch: 8, precisions: both },
  { task: 'unet_forward', model: 'sd15', batch: 1, precisions: both },
  { task: 'unet_forward', model: 'sd15', batch: 2, precisions: both },
  { task: 'sample', model: 'small', batch: 1, steps: 20, precisions: both },
  { task: 'sample', model: demo, batch: 16, steps: 20, precisions: both },
  { task: 'vae_encode', model: demo, batch: 16, precisions: both },
  { task: 'vae_decode', model: demo, batch: 16, precisions: both },
  // float32 weights, moments and gradients of both models alone would fill most of 24 GiB
  { task: 'spin_step', model: 'sd15', batch: 1, precisions: ['bfloat16'] },
];

export const cases = groups.flatMap(({ precisions, ...rest }) =>
  precisions.map((precision) => ({ ...rest, precision })),
);

/** As people say it, and what `--only` looks into. */
export function caseName({ task, model, batch, precision }) {
  return `${task} ${basename(model)} b${batch} ${precision}`;
}

function commonArguments({ task, model, batch, steps }, { threads, repeat, warmup }) {
  const flags = {
    task,
    model,
    batch,
    ...(steps === undefined ? {} : { steps }),
    threads,
    repeat,
    warmup,
  };
  return Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, String(value)]);
}

export function spindleArguments(one, settings) {
  return [
    ...commonArguments(one, settings),
    '--precision',
    one.precision,
    '--isa',
    settings.isa,
    '--json',
  ];
}

export function peerArguments(one, settings) {
  return [settings.peerScript, ...commonArguments(one, settings), '--dtype', one.precision];
}

/** Holds PyTorch and oneDNN to the instruction set that Spindle was held to. */
export function peerEnvironment(isa) {
  const limits = {
    avx512: ['avx512', 'AVX512_CORE'],
    avx2: ['avx2', 'AVX2'],
    generic: ['default', 'SSE41'],
  };
  if (isa === 'auto') return {};
  const [aten, onednn] = limits[isa];
  return { ATEN_CPU_CAPABILITY: aten, ONEDNN_MAX_CPU_ISA: onednn };
}

/** A command as it is written into results: where programs lie is this machine's business. */
export function shownCommand(program, args, environment = {}) {
  const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  const words = args.map((word, i) => (i === 0 && word.endsWith('.py') ? basename(word) : word));
  return [...variables, basename(program), ...words].join(' ');
}
