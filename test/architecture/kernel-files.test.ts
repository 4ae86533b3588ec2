import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { readSources, type SourceFile } from './sources.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const kernels = 'native-cuda/engine/kernels';
const backends = ['reference', 'cpu', 'cuda'] as const;

/** Kernel -> backend -> the stem of the file that has its body. */
function homes(files: readonly SourceFile[]): Map<string, Partial<Record<string, string>>> {
  const found = new Map<string, Partial<Record<string, string>>>();
  for (const { path, text } of files) {
    const backend = backends.find((name) => path.startsWith(`${kernels}/${name}/`));
    if (backend === undefined) continue;
    const bodies = text.matchAll(/^void (?:\w+::)?run\((?:CpuContext& ?\w*, )?const (\w+)& op\)/gm);
    for (const [, kernel = ''] of bodies) {
      const home = found.get(kernel) ?? {};
      home[backend] = basename(path).replace(/\.\w+$/, '');
      found.set(kernel, home);
    }
  }
  return found;
}

/** Kernels whose files are not named alike: a longer name may only add to the shortest one. */
function strays(files: readonly SourceFile[]): string[] {
  return [...homes(files)].flatMap(([kernel, home]) => {
    const stems = Object.values(home).filter((stem) => stem !== undefined);
    const shortest = [...stems].sort((a, b) => a.length - b.length)[0] ?? '';
    return stems.every((stem) => stem === shortest || stem.startsWith(`${shortest}_`))
      ? []
      : [`${kernel}: ${JSON.stringify(home)}`];
  });
}

test('a kernel lies in a file of the same name on every backend', () => {
  const files = readSources(root, [kernels], /\.(cc|cu)$/);
  expect(homes(files).size).toBeGreaterThan(30);
  expect(strays(files)).toEqual([]);
});

test('a kernel in a file of another name is told', () => {
  const file = (path: string, text: string) => ({ path: `${kernels}/${path}`, text });
  expect(
    strays([
      file('reference/norm.cc', 'void ReferenceKernels::run(const Norm& op) {\n'),
      file('cpu/norm_blocks.cc', 'void run(CpuContext& cpu, const Norm& op) {\n'),
    ]),
  ).toEqual([]);
  expect(
    strays([
      file('reference/norm.cc', 'void ReferenceKernels::run(const Norm& op) {\n'),
      file('cuda/sums.cu', 'void CudaKernels::run(const Norm& op) {\n'),
    ]),
  ).toEqual(['Norm: {"reference":"norm","cuda":"sums"}']);
});
