/** What `doctor` says of GPUs. */
import { type GpusDto } from '@spindle/native';

const mib = (bytes: number): string => `${Math.round(bytes / 2 ** 20).toLocaleString('en')} MiB`;
const major = (version: string): number => Number(version.split('.')[0]);

/**
 * One line each: driver, devices, the backend's libraries, and what has to change before a GPU can
 * be used.
 */
export function describeGpus({ problem, driver, cuda, devices, backend }: GpusDto): string[] {
  const lines: string[] = [];
  if (problem === null)
    lines.push(
      `NVIDIA driver ${driver ?? 'of unknown version'}, runs CUDA up to ` +
        (cuda ?? 'an unknown version'),
    );
  else lines.push(`no GPU: ${problem}`);
  for (const gpu of devices) {
    const free = gpu.freeBytes === null ? '' : `, ${mib(gpu.freeBytes)} free`;
    const parts =
      `${mib(gpu.totalBytes)}${free}, compute capability ${gpu.computeCapability}, ` +
      `${gpu.multiprocessors} multiprocessors`;
    lines.push(`GPU ${gpu.index}: ${gpu.name}, ${parts}`);
  }
  if (backend.problem !== null) lines.push(`no CUDA backend: ${backend.problem} (${backend.path})`);
  else
    lines.push(
      'CUDA backend: ' +
        backend.libraries.map(({ name, version }) => `${name} ${version}`).join(', '),
    );
  const advice = adviceFor(problem, cuda, devices, backend);
  if (advice !== undefined) lines.push(advice);
  return lines;
}

function adviceFor(
  problem: string | null,
  cuda: string | null,
  devices: GpusDto['devices'],
  backend: GpusDto['backend'],
): string | undefined {
  if (problem !== null) return undefined;
  if (backend.problem !== null) return 'to use the GPU, build the CUDA backend (docs/CUDA.md)';
  const runtime = backend.libraries.find(({ name }) => name === 'CUDA runtime')?.version;
  if (cuda !== null && runtime !== undefined && major(cuda) < major(runtime))
    return (
      `the driver runs CUDA up to ${cuda}, and the backend was built with ${runtime}: update ` +
      'the driver, or build with an older toolkit'
    );
  const old = devices.find((gpu) => major(gpu.computeCapability) < 8);
  if (old !== undefined)
    return (
      `GPU ${old.index} has compute capability ${old.computeCapability}: the CUDA backend needs ` +
      '8.0 or newer'
    );
  return undefined;
}
