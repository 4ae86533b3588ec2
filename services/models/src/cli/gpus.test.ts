import { describe, expect, it } from 'vitest';
import { type GpusDto } from '@spindle/native';
import { describeGpus } from './gpus.js';

const h200: GpusDto = {
  problem: null,
  driver: '580.65.06',
  cuda: '13.0',
  devices: [
    {
      index: 0,
      name: 'NVIDIA H200',
      computeCapability: '9.0',
      multiprocessors: 132,
      totalBytes: 2 ** 37,
      freeBytes: 2 ** 36,
    },
    {
      index: 1,
      name: 'NVIDIA H200',
      computeCapability: '9.0',
      multiprocessors: 132,
      totalBytes: 2 ** 37,
      freeBytes: null,
    },
  ],
  backend: {
    problem: null,
    path: '/x/spindle_cuda.so',
    libraries: [
      { name: 'CUDA runtime', version: '13.0' },
      { name: 'cuDNN', version: '9.15.1' },
    ],
  },
};

describe('what doctor says of GPUs', () => {
  it('names driver, devices, memory, capabilities and library versions', () => {
    expect(describeGpus(h200)).toEqual([
      'NVIDIA driver 580.65.06, runs CUDA up to 13.0',
      'GPU 0: NVIDIA H200, 131,072 MiB, 65,536 MiB free, compute capability 9.0, 132 multiprocessors',
      'GPU 1: NVIDIA H200, 131,072 MiB, compute capability 9.0, 132 multiprocessors',
      'CUDA backend: CUDA runtime 13.0, cuDNN 9.15.1',
    ]);
  });

  it('says plainly that there is none', () => {
    const none: GpusDto = {
      problem: 'no NVIDIA driver (libcuda.so.1: cannot open shared object file)',
      driver: null,
      cuda: null,
      devices: [],
      backend: {
        problem: 'this build has no CUDA backend',
        path: '/x/spindle_cuda.so',
        libraries: [],
      },
    };
    expect(describeGpus(none)).toEqual([
      'no GPU: no NVIDIA driver (libcuda.so.1: cannot open shared object file)',
      'no CUDA backend: this build has no CUDA backend (/x/spindle_cuda.so)',
    ]);
  });

  it('says what has to change before a GPU can be used', () => {
    const last = (gpus: GpusDto) => describeGpus(gpus).at(-1);
    expect(
      last({
        ...h200,
        backend: { problem: 'this build has no CUDA backend', path: '/x', libraries: [] },
      }),
    ).toBe('to use the GPU, build the CUDA backend (docs/CUDA.md)');
    expect(last({ ...h200, cuda: '12.8' })).toMatch(
      /^the driver runs CUDA up to 12\.8, and the backend was built with 13\.0/,
    );
    expect(
      last({ ...h200, devices: h200.devices.map((gpu) => ({ ...gpu, computeCapability: '7.5' })) }),
    ).toMatch(/needs 8\.0 or newer/);
  });
});
