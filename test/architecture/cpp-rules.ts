import type { SourceFile, Violation } from './sources.js';

/**
 * A layer includes itself and what stands before it. Sampling comes before training, which shares
 * its noise schedule.
 */
export const layers = [
  'core',
  'collective',
  'kernels',
  'autograd',
  'io',
  'ops',
  'nn',
  'models',
  'sample',
  'train',
  'top',
] as const;
type Layer = (typeof layers)[number];

/**
 * Everything that ends in a program or a library: it may include any layer, and no layer may
 * include it.
 */
export const top = ['addon', 'bench', 'fuzz', 'parity', 'test'];

const restricted: readonly { headers: RegExp; name: string; folders: RegExp }[] = [
  {
    name: 'CUDA',
    headers:
      /^(cuda(_runtime(_api)?|_bf16|_fp16|_fp8|_profiler_api)?\.h|cuda\/|cudnn|cublas|cutlass|cute|curand|nvml|nvrtc|thrust|cub\/|mma\.h)/,
    folders: /\/kernels\/cuda\//,
  },
  { name: 'oneDNN', headers: /^(dnnl|oneapi\/dnnl)/, folders: /\/(kernels\/cpu|bench)\// },
  { name: 'Node-API', headers: /^(napi|node_api|js_native_api)/, folders: /^native-cuda\/addon\// },
];

export function checkCpp(files: readonly SourceFile[]): Violation[] {
  return files.flatMap(({ path, text }) =>
    [...text.matchAll(/^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]/gm)].flatMap(
      ([, header = '']) => [...checkLayer(path, header), ...checkRestricted(path, header)],
    ),
  );
}

function checkLayer(path: string, header: string): Violation[] {
  const from = layerOf(path.replace(/^native-cuda\/(engine\/)?/, ''));
  const to = layerOf(header);
  if (from === undefined || to === undefined || layers.indexOf(to) <= layers.indexOf(from))
    return [];
  return [
    {
      edge: `${path} -> ${header}`,
      rule: `includes point down the layers ${layers.slice(0, -1).join(' <- ')} <- addon`,
    },
  ];
}

function layerOf(path: string): Layer | undefined {
  const folder = path.split('/')[0] ?? '';
  if (top.includes(folder)) return 'top';
  return layers.find((layer) => layer === folder);
}

function checkRestricted(path: string, header: string): Violation[] {
  return restricted
    .filter(({ headers, folders }) => headers.test(header) && !folders.test(path))
    .map(({ name }) => ({
      edge: `${path} -> ${header}`,
      rule: `${name} headers stay where they belong`,
    }));
}
