import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { checkCpp } from './cpp-rules.js';
import { readSources, readWorkspaces } from './sources.js';
import { checkTypeScript, type Workspace } from './typescript-rules.js';

const root = fileURLToPath(new URL('../..', import.meta.url));

describe('the project keeps its import rules', () => {
  test('TypeScript', () => {
    const files = readSources(
      root,
      ['proto', 'services', 'gateway', 'native-cuda', 'test'],
      /\.m?ts$/,
    );
    expect(files.length).toBeGreaterThan(50);
    expect(checkTypeScript(files, readWorkspaces(root))).toEqual([]);
  });

  test('C++', () => {
    const files = readSources(root, ['native-cuda'], /\.(h|hpp|inl|cc|cpp|cu|cuh)$/);
    expect(files.length).toBeGreaterThan(50);
    expect(checkCpp(files)).toEqual([]);
  });
});

const workspaces: Workspace[] = [
  {
    folder: 'services/kit',
    name: '@spindle/kit',
    exports: ['.', './domain', './testing'],
    dependencies: ['nats'],
  },
  {
    folder: 'services/mesh',
    name: '@spindle/mesh',
    exports: ['.', './testing'],
    dependencies: ['nats'],
  },
  {
    folder: 'services/sampler',
    name: '@spindle/sampler',
    exports: ['.'],
    dependencies: ['@spindle/kit', '@spindle/scorer'],
  },
  { folder: 'services/scorer', name: '@spindle/scorer', exports: ['.'], dependencies: [] },
  { folder: 'native-cuda', name: '@spindle/native', exports: ['.'], dependencies: [] },
  { folder: 'services/models', name: '@spindle/models', exports: ['.'], dependencies: [] },
  {
    folder: 'gateway',
    name: '@spindle/gateway',
    exports: [],
    dependencies: ['@spindle/kit', '@spindle/native', 'nats'],
  },
];

describe('each broken rule is named with its edge', () => {
  test.each<[string, string, string]>([
    [
      'services/sampler/src/server.ts',
      `import { x } from '@spindle/scorer';`,
      'a service never imports another service',
    ],
    [
      'services/sampler/src/server.ts',
      `export * from '../../scorer/src/x.js';`,
      "nobody reaches past a package's exports",
    ],
    [
      'services/sampler/src/server.ts',
      `const x = await import('@spindle/kit/src/errors.js');`,
      "nobody reaches past a package's exports",
    ],
    [
      'test/e2e/run.test.ts',
      `import { x } from '../../gateway/src/machine.js';`,
      "nobody reaches past a package's exports",
    ],
    [
      'gateway/src/cli/bench.ts',
      `import type { x } from '@spindle/native';`,
      'gateway never imports the engine',
    ],
    ['gateway/src/bus.ts', `import { connect } from 'nats';`, 'only services/mesh imports nats'],
    [
      'services/kit/src/x.ts',
      `import { x } from '@spindle/native';`,
      'services/kit never imports the engine',
    ],
    [
      'services/kit/src/x.ts',
      `import { x } from '@spindle/gateway';`,
      'services/kit knows no other package: nothing of SPIN, nor its contracts',
    ],
    [
      'native-cuda/ts/loader.ts',
      `import { x } from '@spindle/kit';`,
      'native-cuda imports no other package',
    ],
    [
      'services/models/src/pipeline/x.ts',
      `import { x } from '../judges/judges.js';`,
      'services/models imports down its folders: files <- text <- pipeline <- judges <- released <- convert <- inspect <- cli',
    ],
    [
      'gateway/src/bus.ts',
      `import { startTestNats } from '@spindle/kit/testing';`,
      'only tests import helpers for tests',
    ],
    [
      'services/scorer/src/x.ts',
      `import { x } from '@spindle/kit';`,
      'services/scorer/package.json does not list the dependency',
    ],
    [
      'services/scorer/src/domain/x.ts',
      `import { x } from '../engine.js';`,
      'domain/ imports only domain/',
    ],
    [
      'services/scorer/src/domain/x.ts',
      `import { join } from 'node:path';`,
      'domain/ imports only domain/',
    ],
    [
      'services/scorer/src/server.ts',
      `const port = process.env['PORT'];`,
      'only main.ts reads the environment',
    ],
  ])('%s: %s', (path, text, rule) => {
    const [found, ...others] = checkTypeScript([{ path, text }], workspaces);
    expect(found?.rule).toBe(rule);
    expect(found?.edge.startsWith(`${path} -> `)).toBe(true);
    expect(others).toEqual([]);
  });

  test.each<[string, string]>([
    ['services/scorer/src/main.ts', `const port = process.env['PORT'];`],
    [
      'services/scorer/src/domain/x.ts',
      `import { y } from './y.js'; import { z } from './deep/z.js';`,
    ],
    ['services/scorer/src/domain/x.test.ts', `import { test } from 'vitest';`],
    ['services/sampler/src/domain/x.ts', `import { x } from '@spindle/kit/domain';`],
    ['services/sampler/src/x.ts', `import { x } from '@spindle/kit'; // import { y } from 'nats'`],
    ['services/mesh/src/nats/x.ts', `import { connect } from 'nats';`],
  ])('%s may say: %s', (path, text) => {
    expect(checkTypeScript([{ path, text }], workspaces)).toEqual([]);
  });

  test.each<[string, string]>([
    ['native-cuda/engine/core/x.h', '#include "kernels/kernels.h"'],
    ['native-cuda/engine/ops/x.cc', '#include "nn/linear.h"'],
    ['native-cuda/engine/sample/x.cc', '  #  include "train/trainer.h"'],
    ['native-cuda/engine/train/x.cc', '#include "parity/parity.h"'],
    ['native-cuda/engine/ops/x.cc', '#include <cuda_runtime.h>'],
    ['native-cuda/engine/nn/x.cc', '#include <oneapi/dnnl/dnnl.hpp>'],
    ['native-cuda/engine/core/x.cc', '#include <napi.h>'],
  ])('%s: %s', (path, text) => {
    const found = checkCpp([{ path, text }]);
    expect(found).toHaveLength(1);
    expect(found[0]?.edge).toMatch(/^\S+ -> \S+$/);
  });

  test.each<[string, string]>([
    [
      'native-cuda/engine/train/x.cc',
      '#include "models/unet.h"\n#include "sample/noise_schedule.h"\n#include <vector>',
    ],
    ['native-cuda/engine/kernels/cuda/x.cu', '#include <cuda_runtime.h>'],
    ['native-cuda/engine/kernels/cpu/x.cc', '#include <dnnl.hpp>'],
    ['native-cuda/addon/x.cc', '#include <napi.h>\n#include "train/trainer.h"'],
    ['native-cuda/test/x.cc', '#include "parity/parity.h"'],
  ])('%s may say: %s', (path, text) => {
    expect(checkCpp([{ path, text }])).toEqual([]);
  });
});
