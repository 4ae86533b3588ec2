// Builds the native engine: `node scripts/build-native.mjs [--tests] [--cuda auto|on|off]
// [--cuda-root DIR] [--sanitize address|thread] [--clang]`. Default: the addon and spindle-bench in
// build/native; --tests adds the engine's tests (run them with ctest). `--sanitize address` builds
// the tests with AddressSanitizer and UBSan in build/sanitize, `--sanitize thread` those about
// threads with ThreadSanitizer in build/tsan; --clang builds all with clang++ in build/clang.
// The CUDA backend is built too where a toolkit is found: --cuda-root, SPINDLE_CUDA_ROOT, one that
// scripts/cuda/toolkit.mjs brought, or the system's. SPINDLE_CUDA and SPINDLE_CUDA_ARCHITECTURES
// (such as "90a") count as they do for cmake, and are kept as cmake's are.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ensureToolkit } from './cuda/toolkit.mjs';
import { main, root, ScriptError } from './lib/phase.mjs';

const sourceDir = join(root, 'native-cuda');

/** Builds that lie side by side; `product` is there when one is done. */
const variants = {
  native: { folder: 'native', product: 'spindle.node', name: 'native engine' },
  clang: {
    folder: 'clang',
    product: 'spindle.node',
    name: 'native engine (clang++)',
    compiler: 'clang++',
  },
  address: {
    folder: 'sanitize',
    product: 'core_test',
    name: 'native engine (AddressSanitizer and UBSan)',
    sanitize: 'address',
  },
  thread: {
    folder: 'tsan',
    product: 'core_test',
    name: 'native engine (ThreadSanitizer)',
    sanitize: 'thread',
  },
  fuzz: {
    folder: 'fuzz',
    product: 'json_fuzz',
    name: 'fuzz programs (AddressSanitizer and UBSan)',
    sanitize: 'address',
  },
  tidy: { folder: 'tidy', name: 'native engine (for clang-tidy)' },
};

/** Which of them `--sanitize KIND` and `--clang` ask for. */
export function variantOf({ sanitize, clang = false }) {
  if (sanitize === undefined) return clang ? 'clang' : 'native';
  if (!['address', 'thread'].includes(sanitize)) {
    throw new ScriptError(`--sanitize: expected address or thread, got ${sanitize}`, 2);
  }
  if (clang) throw new ScriptError('--clang and --sanitize are builds of their own: choose one', 2);
  return sanitize;
}

export const buildFolder = (variant) => join(root, 'build', variants[variant].folder);

function available(command) {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}

function requireTools(wanted) {
  const compiler = wanted ?? ['c++', 'g++', 'clang++'].find(available);
  const missing = [];
  if (!available('cmake')) missing.push('cmake');
  if (compiler === undefined || !available(compiler))
    missing.push(wanted === 'clang++' ? 'clang' : 'g++');
  const ninja = available('ninja');
  if (!ninja && !available('make')) missing.push('ninja-build');
  if (missing.length > 0) {
    throw new ScriptError(
      `building the native engine needs ${missing.join(' and ')}: run \`sudo apt-get install ` +
        `-y ${missing.join(' ')}\``,
    );
  }
  return { generator: ninja ? 'Ninja' : 'Unix Makefiles' };
}

/**
 * Names, sizes and times of all that goes into the build: equal digests mean that nothing has to be
 * done.
 */
function digestOfSources(options) {
  const hash = createHash('sha256').update(JSON.stringify(options)).update(sourceDir);
  const visit = (path) => {
    const stat = statSync(path);
    if (stat.isDirectory()) {
      for (const name of readdirSync(path).sort()) visit(join(path, name));
    } else {
      hash.update(`${path}\0${stat.size}\0${stat.mtimeMs}\n`);
    }
  };
  for (const name of [
    'CMakeLists.txt',
    'cmake',
    'engine',
    'addon',
    'bench',
    ...(options.tests ? ['test', 'fuzz'] : []),
    ...(options.variant === 'fuzz' ? ['fuzz'] : []),
  ]) {
    if (existsSync(join(sourceDir, name))) visit(join(sourceDir, name));
  }
  return hash.digest('hex');
}

/**
 * How the CUDA backend is to be built: what was asked for, else the environment, else what this
 * build folder was last told (as cmake keeps it, so that a program that builds on its way does not
 * build another backend), else whatever is found.
 */
async function cudaOptions({ cuda, cudaRoot }, buildDir) {
  const file = join(buildDir, 'cuda.json');
  const told = {
    mode: cuda ?? process.env.SPINDLE_CUDA,
    architectures: process.env.SPINDLE_CUDA_ARCHITECTURES,
  };
  const kept = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  const chosen = {
    mode: told.mode ?? kept.mode,
    architectures: told.architectures ?? kept.architectures,
  };
  const mode = (chosen.mode ?? 'auto').toUpperCase();
  if (!['AUTO', 'ON', 'OFF'].includes(mode))
    throw new ScriptError(`--cuda: expected auto, on or off, got ${chosen.mode}`);
  mkdirSync(buildDir, { recursive: true });
  writeFileSync(file, JSON.stringify(chosen));
  if (told.mode === undefined && mode === 'OFF')
    console.log(
      'CUDA backend: off, as this build folder was told before (--cuda auto looks again)',
    );
  if (mode === 'OFF') return { mode, root: '', architectures: '' };
  const root =
    cudaRoot ??
    process.env.SPINDLE_CUDA_ROOT ??
    (await ensureToolkit({ check: true }).catch(() => ''));
  return {
    mode,
    root: root === '' ? '' : resolve(root),
    architectures: chosen.architectures ?? '',
  };
}

function includeDir(packageName, folder) {
  try {
    const require = createRequire(join(sourceDir, 'package.json'));
    return join(dirname(require.resolve(`${packageName}/package.json`)), folder);
  } catch {
    throw new ScriptError(
      `building the addon needs the package ${packageName}: run \`npm ci\` in ${root}`,
    );
  }
}

function run(command, args, what) {
  const result = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (result.status !== 0) {
    process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`);
    throw new ScriptError(`${what} failed: ${command} ${args.join(' ')}`);
  }
  return result.stdout;
}

/** Whether a cache's compiler is `compiler`, which may be a name or a path. */
function isCompiler(cacheText, compiler) {
  const known = /^CMAKE_CXX_COMPILER:\w+=(.*)$/m.exec(cacheText)?.[1];
  return known === compiler || known?.split('/').at(-1) === compiler;
}

function configure(buildDir, options) {
  const { generator } = requireTools(options.compiler);
  const cache = join(buildDir, 'CMakeCache.txt');
  if (existsSync(cache)) {
    // A cache of another generator, or one that was copied here from elsewhere, is refused by
    // cmake. One of another compiler than asked for is used by it without a word.
    const text = readFileSync(cache, 'utf8');
    const fits =
      text.includes(`CMAKE_GENERATOR:INTERNAL=${generator}\n`) &&
      text.includes(`CMAKE_CACHEFILE_DIR:INTERNAL=${buildDir}\n`) &&
      (options.compiler === undefined || isCompiler(text, options.compiler));
    if (!fits) rmSync(buildDir, { recursive: true });
  }
  mkdirSync(buildDir, { recursive: true });
  const flag = (value) => (value ? 'ON' : 'OFF');
  const args = ['-S', sourceDir, '-B', buildDir, '-G', generator, '-DCMAKE_BUILD_TYPE=Release'];
  args.push(
    `-DSPINDLE_SANITIZE=${options.sanitize ?? ''}`,
    `-DSPINDLE_TESTS=${flag(options.tests)}`,
    `-DSPINDLE_FUZZ=${flag(options.variant === 'fuzz')}`,
    `-DSPINDLE_ADDON=${flag(options.sanitize === undefined)}`,
    `-DSPINDLE_CUDA=${options.cuda.mode}`,
    `-DSPINDLE_CUDA_ROOT=${options.cuda.root}`,
    `-DSPINDLE_CUDA_ARCHITECTURES=${options.cuda.architectures.replaceAll(/[\s,]+/g, ';')}`,
  );
  if (options.compiler !== undefined) args.push(`-DCMAKE_CXX_COMPILER=${options.compiler}`);
  if (options.sanitize === undefined) {
    args.push(`-DSPINDLE_NODE_API_INCLUDE=${includeDir('node-api-headers', 'include')}`);
    args.push(`-DSPINDLE_NODE_ADDON_INCLUDE=${includeDir('node-addon-api', '.')}`);
  }
  const output = run('cmake', args, 'configuring the native engine');
  if (options.variant !== 'native') return;
  const cuda =
    /^-- (CUDA backend: .*)$/m.exec(output)?.[1] ?? 'CUDA backend: cmake says nothing of it';
  console.log(cuda);
  // One of an earlier build would be loaded.
  if (!cuda.includes(': built')) rmSync(join(buildDir, 'spindle_cuda.so'), { force: true });
}

const noCuda = { mode: 'OFF', root: '', architectures: '' };

/** Configures a build for clang-tidy, which reads its compile_commands.json; compiles nothing. */
export function configureForTidy() {
  const buildDir = buildFolder('tidy');
  configure(buildDir, { variant: 'tidy', tests: true, cuda: noCuda, compiler: process.env.CXX });
  return buildDir;
}

/** `fuzz` builds the fuzz programs alone, with clang++ where it is there: it has libFuzzer. */
export async function buildNative(asked = {}) {
  const { tests = false, clang, cuda, cudaRoot, fuzz = false } = asked;
  const variant = fuzz ? 'fuzz' : variantOf({ sanitize: asked.sanitize, clang });
  const { sanitize } = variants[variant];
  const libFuzzer = fuzz && available('clang++') ? 'clang++' : undefined;
  const { product: productName, name, compiler = libFuzzer ?? process.env.CXX } = variants[variant];
  const buildDir = buildFolder(variant);
  const options = {
    variant,
    tests: tests || (sanitize !== undefined && !fuzz),
    sanitize,
    compiler,
    cuda: variant === 'native' ? await cudaOptions({ cuda, cudaRoot }, buildDir) : noCuda,
  };
  const stamp = join(buildDir, 'built.txt');
  const product = join(buildDir, productName);
  const digest = digestOfSources(options);
  if (existsSync(product) && existsSync(stamp)) {
    // A build with tests is also one without.
    const known = readFileSync(stamp, 'utf8').split('\n');
    if (known.includes(digest)) {
      console.log(`${name}: up to date`);
      return buildDir;
    }
  }
  const started = performance.now();
  configure(buildDir, options);
  run(
    'cmake',
    ['--build', buildDir, '--parallel', String(availableParallelism())],
    `building the ${name}`,
  );
  const digests = [digest];
  if (options.tests && sanitize === undefined)
    digests.push(digestOfSources({ ...options, tests: false }));
  writeFileSync(stamp, `${digests.join('\n')}\n`);
  console.log(`${name}: built in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  return buildDir;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(async () => {
    const text = { type: 'string' };
    const { values } = parseArgs({
      options: {
        tests: { type: 'boolean' },
        sanitize: text,
        clang: { type: 'boolean' },
        cuda: text,
        'cuda-root': text,
      },
    });
    await buildNative({ ...values, cudaRoot: values['cuda-root'] });
  });
}
