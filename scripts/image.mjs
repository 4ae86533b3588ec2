// `npm run image`: the image of all services as an OCI tar, without a container engine and without
// an image registry: what infra/docker/Dockerfile makes where there is one.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { main, root, runQuietly, ScriptError } from './lib/phase.mjs';
import { sizeOf, stage } from './lib/staged.mjs';

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

const help = `npm run image [-- options]: writes the image of all services as an OCI tar.

  --out FILE    default build/spindle-image.tar
  --tag TAG     name in the tar; default spindle:${version}
  --base FILE   a tar of the root file system to build on; default: Debian's C and C++ libraries,
                which apt downloads, and this Node
  --stage DIR   only lay out the project's own part in DIR
  --cuda        with the CUDA backend (build/native/spindle_cuda.so)
  --help        this text`;

/** Of the project's own layer, beyond the base. */
const largest = 350 * 2 ** 20;
const user = 65532;
/** What Node and the engine are linked with, and what names users. */
const packages = ['libc6', 'libgcc-s1', 'libstdc++6', 'base-files', 'netbase', 'tzdata'];
const needless = ['usr/share/doc', 'usr/share/man', 'usr/share/lintian', 'usr/share/locale'];

await main(() => {
  const { values } = parseArgs({
    options: {
      out: { type: 'string', default: join(root, 'build/spindle-image.tar') },
      tag: { type: 'string', default: `spindle:${version}` },
      base: { type: 'string' },
      stage: { type: 'string' },
      cuda: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(help);
    return 0;
  }
  if (values.stage !== undefined) {
    stage(resolve(values.stage), { cuda: values.cuda });
    return 0;
  }
  const work = mkdtempSync(join(tmpdir(), 'spindle-image-'));
  try {
    const own = join(work, 'own');
    stage(join(own, 'opt/spindle'), { cuda: values.cuda });
    const bytes = sizeOf(own);
    console.log(`own layer: ${mebibytes(bytes)}, at most ${mebibytes(largest)}`);
    if (bytes > largest && !values.cuda)
      throw new ScriptError(`the image's own layer is too large: ${mebibytes(bytes)}`);
    const base = join(work, 'base.tar');
    if (values.base === undefined) tarOf(baseFolder(join(work, 'base')), base);
    else copyFileSync(values.base, base);
    const layer = join(work, 'own.tar');
    tarOf(own, layer);
    const out = resolve(values.out);
    writeImage([base, layer], values.tag, join(work, 'oci'), out);
    console.log(`${out}: ${values.tag}, ${mebibytes(statSync(out).size)} in all`);
    return 0;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
});

function mebibytes(bytes) {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

/** Libraries and Node, no shell and no package manager. */
function baseFolder(folder) {
  const files = join(folder, '.packages');
  mkdirSync(files, { recursive: true });
  runQuietly('apt-get', ['download', '-q', ...packages], { cwd: files });
  for (const file of readdirSync(files)) runQuietly('dpkg-deb', ['-x', join(files, file), folder]);
  rmSync(files, { recursive: true });
  for (const path of needless) rmSync(join(folder, path), { recursive: true, force: true });
  mkdirSync(join(folder, 'usr/local/bin'), { recursive: true });
  mkdirSync(join(folder, 'tmp'), { recursive: true });
  chmodSync(join(folder, 'tmp'), 0o1777);
  mkdirSync(join(folder, 'artifacts'), { recursive: true, mode: 0o700 });
  const node = join(folder, 'usr/local/bin/node');
  cpSync(process.execPath, node, { dereference: true });
  chmodSync(node, 0o755);
  const etc = join(folder, 'etc');
  mkdirSync(etc, { recursive: true });
  writeFileSync(
    join(etc, 'passwd'),
    `root:x:0:0:root:/root:/sbin/nologin\nspindle:x:${user}:${user}::/tmp:/sbin/nologin\n`,
  );
  writeFileSync(join(etc, 'group'), `root:x:0:\nspindle:x:${user}:\n`);
  return folder;
}

/** The same files make the same tar. */
function tarOf(folder, file) {
  runQuietly('tar', [
    ...['--create', '--file', file, '--directory', folder, '--sort=name', '--mtime=@0'],
    ...['--owner=0', '--group=0', '--numeric-owner', '--format=posix'],
    '--pax-option=delete=atime,delete=ctime',
    ...readdirSync(folder).sort(),
  ]);
}

/** An image layout (OCI image specification 1.1) as a tar. */
function writeImage(layers, tag, folder, out) {
  const blobs = join(folder, 'blobs/sha256');
  mkdirSync(blobs, { recursive: true });
  const described = (mediaType, digest, size) => ({ mediaType, digest: `sha256:${digest}`, size });
  const put = (mediaType, value) => {
    const bytes = Buffer.from(JSON.stringify(value));
    const digest = createHash('sha256').update(bytes).digest('hex');
    writeFileSync(join(blobs, digest), bytes);
    return described(mediaType, digest, bytes.length);
  };
  const stored = layers.map((file) => {
    const { size } = statSync(file);
    const [digest] = runQuietly('sha256sum', [file]).split(' ');
    renameSync(file, join(blobs, digest));
    return described('application/vnd.oci.image.layer.v1.tar', digest, size);
  });
  const labels = {
    'org.opencontainers.image.title': 'spindle',
    'org.opencontainers.image.version': version,
    'org.opencontainers.image.licenses': 'Apache-2.0',
    'org.opencontainers.image.description': 'Self-play fine-tuning of diffusion models',
  };
  const config = put('application/vnd.oci.image.config.v1+json', {
    architecture: { x64: 'amd64', arm64: 'arm64' }[process.arch] ?? process.arch,
    os: 'linux',
    config: {
      User: `${user}:${user}`,
      WorkingDir: '/tmp',
      Env: [
        'PATH=/usr/local/bin',
        'HOME=/tmp',
        'NODE_ENV=production',
        'SPINDLE_ARTIFACTS=/artifacts',
      ],
      Entrypoint: ['node', '/opt/spindle/infra/docker/spindle.mjs'],
      Cmd: ['--help'],
      Labels: labels,
    },
    rootfs: { type: 'layers', diff_ids: stored.map(({ digest }) => digest) },
  });
  const manifest = put('application/vnd.oci.image.manifest.v1+json', {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config,
    layers: stored,
    annotations: labels,
  });
  writeFileSync(join(folder, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(
    join(folder, 'index.json'),
    JSON.stringify({
      schemaVersion: 2,
      manifests: [
        {
          ...manifest,
          annotations: {
            'io.containerd.image.name': tag,
            'org.opencontainers.image.ref.name': tag,
          },
        },
      ],
    }),
  );
  if (!existsSync(join(out, '..'))) mkdirSync(join(out, '..'), { recursive: true });
  const { status, stderr } = spawnSync('tar', [
    '-C',
    folder,
    '-cf',
    out,
    'oci-layout',
    'index.json',
    'blobs',
  ]);
  if (status !== 0) throw new ScriptError(`${out} could not be written: ${stderr}`);
}
