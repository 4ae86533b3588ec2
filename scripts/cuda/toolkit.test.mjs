import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deflateRawSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { fetchWheel, findLinks, indexUrl, linkOf } from './index-client.mjs';
import { ensureToolkit, parseLock, placeOf } from './toolkit.mjs';

let folder;
let server;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'spindle-toolkit-'));
});
afterEach(async () => {
  rmSync(folder, { recursive: true, force: true });
  if (server !== undefined) await new Promise((done) => server.close(done));
  server = undefined;
});

/** A zip archive of { name: content }, every other file deflated. */
function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [index, [name, content]] of Object.entries(files).entries()) {
    const plain = Buffer.from(content);
    const packed = index % 2 === 0 ? plain : deflateRawSync(plain);
    const local = Buffer.alloc(30 + name.length);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(name.length, 26);
    local.write(name, 30);
    const entry = Buffer.alloc(46 + name.length);
    entry.writeUInt32LE(0x02014b50, 0);
    entry.writeUInt16LE(packed === plain ? 0 : 8, 10);
    entry.writeUInt32LE(packed.length, 20);
    entry.writeUInt32LE(plain.length, 24);
    entry.writeUInt16LE(name.length, 28);
    entry.writeUInt32LE(offset, 42);
    entry.write(name, 46);
    parts.push(local, packed);
    directory.push(entry);
    offset += local.length + packed.length;
  }
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(directory.length, 10);
  end.writeUInt32LE(Buffer.concat(directory).length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, ...directory, end]);
}

const sha256 = (data) => createHash('sha256').update(data).digest('hex');
const wheelName = 'nvidia_cuda_nvcc-13.0.1-py3-none-manylinux_2_17_x86_64.whl';
const wheel = zip({
  'nvidia/cu13/bin/nvcc': 'a compiler '.repeat(1000),
  'nvidia/cu13/bin/nvcc.profile': 'text',
  'nvidia/cu13/include/cuda_runtime.h': '#pragma once',
  'nvidia/cu13/lib/libcudart.so.13': 'a library',
  'nvidia/cu13/lib/libnvrtc.so.13': 'only to run',
  'nvidia_cuda_nvcc-13.0.1.dist-info/licenses/License.txt': 'NVIDIA',
  'nvidia_cuda_nvcc-13.0.1.dist-info/RECORD': '',
});
const lock = `# pinned\nnvidia-cuda-nvcc==13.0.1 --hash=sha256:${sha256(wheel)}\n`;
const entry = { name: 'nvidia-cuda-nvcc', version: '13.0.1', sha256: sha256(wheel) };

/** An index with one project; `cut` breaks the first transfer off after so many bytes. */
async function serve({ content = wheel, cut = 0, json = true, ranges = true } = {}) {
  const requests = [];
  server = createServer((request, response) => {
    requests.push(`${request.url} ${request.headers.range ?? ''}`.trim());
    if (request.url === '/simple/nvidia-cuda-nvcc/') {
      const page = json
        ? JSON.stringify({
            files: [
              {
                filename: wheelName,
                url: `../../files/${wheelName}`,
                hashes: { sha256: entry.sha256 },
              },
            ],
          })
        : `<a href="../../files/${wheelName}#sha256=${entry.sha256}">${wheelName}</a>`;
      response
        .writeHead(200, {
          'content-type': json ? 'application/vnd.pypi.simple.v1+json' : 'text/html',
        })
        .end(page);
    } else if (request.url === `/files/${wheelName}`) {
      const from = ranges ? Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0) : 0;
      response.writeHead(from > 0 ? 206 : 200, { 'content-length': content.length - from });
      if (cut > 0) {
        response.write(content.subarray(0, cut), () => response.destroy());
        cut = 0;
      } else response.end(content.subarray(from));
    } else response.writeHead(404).end();
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return { index: `http://127.0.0.1:${server.address().port}/simple`, requests };
}

describe('the private CUDA toolkit', () => {
  it('unpacks what compiling needs, and only once', async () => {
    const { index, requests } = await serve();
    const options = { cache: folder, env: { PIP_INDEX_URL: index }, pip: null, lock };
    const toolkit = await ensureToolkit(options);
    expect(readFileSync(join(toolkit, 'bin/nvcc'), 'utf8')).toBe('a compiler '.repeat(1000));
    expect(statSync(join(toolkit, 'bin/nvcc')).mode & 0o111).not.toBe(0);
    expect(statSync(join(toolkit, 'bin/nvcc.profile')).mode & 0o111).toBe(0);
    expect(readFileSync(join(toolkit, 'lib64/libcudart.so'), 'utf8')).toBe('a library');
    expect(readFileSync(join(toolkit, 'licenses/nvidia-cuda-nvcc.txt'), 'utf8')).toBe('NVIDIA');
    expect(existsSync(join(toolkit, 'lib/libnvrtc.so.13'))).toBe(false);
    expect(readdirSync(folder).filter((name) => name.endsWith('.part'))).toEqual([]);
    expect(readdirSync(join(folder, 'wheels'))).toEqual([]);
    const asked = requests.length;
    expect(await ensureToolkit(options)).toBe(toolkit);
    expect(await ensureToolkit({ ...options, check: true })).toBe(toolkit);
    expect(requests.length).toBe(asked);
  });

  it('brings what running needs when asked to, and that serves compiling too', async () => {
    const { index } = await serve();
    const options = { cache: folder, env: { PIP_INDEX_URL: index }, pip: null, lock };
    const toolkit = await ensureToolkit({ ...options, runtime: true });
    expect(existsSync(join(toolkit, 'lib/libnvrtc.so.13'))).toBe(true);
    expect(await ensureToolkit(options)).toBe(toolkit);
  });

  it('takes wheels from a folder, and no others than the pinned ones', async () => {
    const wheels = join(folder, 'wheels-here');
    mkdirSync(wheels);
    writeFileSync(join(wheels, wheelName), wheel);
    const env = { PIP_INDEX_URL: 'http://127.0.0.1:9/simple' };
    expect(
      existsSync(
        join(
          await ensureToolkit({ cache: join(folder, 'a'), wheels: [wheels], env, pip: null, lock }),
          'bin/nvcc',
        ),
      ),
    ).toBe(true);
    writeFileSync(join(wheels, wheelName), 'another file');
    await expect(
      ensureToolkit({ cache: join(folder, 'b'), wheels: [wheels], env, pip: null, lock }),
    ).rejects.toThrow('the package index cannot be reached');
    expect(readdirSync(join(folder, 'b'))).toEqual(['wheels']);
  });

  it('fetches nothing when only asked whether it is there', async () => {
    await expect(ensureToolkit({ cache: folder, check: true, env: {}, lock })).rejects.toThrow(
      'no private CUDA toolkit',
    );
  });

  it('says which line of the lock it does not understand', () => {
    expect(parseLock(lock)).toEqual([entry]);
    expect(() => parseLock('nvidia-cuda-nvcc>=13')).toThrow('got "nvidia-cuda-nvcc>=13"');
  });

  it.each([
    ['nvidia/cu13/include/crt/host_config.h', 'include/crt/host_config.h'],
    ['nvidia/cudnn/lib/libcudnn.so.9', 'lib/libcudnn.so.9'],
    ['nvidia/cudnn/lib/libcudnn_ops.so.9', undefined],
    ['nvidia/cu13/lib/libcudart_static.a', 'lib/libcudart_static.a'],
    ['nvidia/cu13/nvvm/bin/cicc', 'nvvm/bin/cicc'],
    ['nvidia/cu13/lib/cmake/cub/cub-config.cmake', undefined],
    ['include/cudnn_frontend.h', 'include/cudnn_frontend.h'],
    ['cudnn/graph.py', undefined],
    ['nvidia_nvvm-13.0.88.dist-info/METADATA', undefined],
  ])('puts %s in its place', (name, place) => {
    expect(placeOf('some-wheel', name)).toBe(place);
  });
});

describe('the package index', () => {
  it('takes up a transfer that broke off where it stopped', async () => {
    const { index, requests } = await serve({ cut: 100 });
    const path = await fetchWheel(index, entry, folder, { pauseMs: 1 });
    expect(readFileSync(path).equals(wheel)).toBe(true);
    expect(requests.at(-1)).toMatch(/bytes=[1-9]\d*-$/);
  });

  it('begins again where the server cannot continue', async () => {
    const { index } = await serve({ cut: 100, ranges: false });
    expect(readFileSync(await fetchWheel(index, entry, folder, { pauseMs: 1 })).equals(wheel)).toBe(
      true,
    );
  });

  it('reads HTML pages too', async () => {
    const { index } = await serve({ json: false });
    expect(readFileSync(await fetchWheel(index, entry, folder)).equals(wheel)).toBe(true);
  });

  it('refuses a file of another content and keeps nothing of it', async () => {
    const { index } = await serve({ content: Buffer.from('something else') });
    await expect(fetchWheel(index, entry, folder)).rejects.toThrow(
      `expected SHA-256 ${entry.sha256}, got`,
    );
    expect(readdirSync(folder)).toEqual([]);
  });

  it('says what an index does not have', async () => {
    const { index } = await serve();
    await expect(fetchWheel(index, { ...entry, name: 'nvidia-other' }, folder)).rejects.toThrow(
      'has no nvidia-other',
    );
    await expect(fetchWheel(index, { ...entry, sha256: '0'.repeat(64) }, folder)).rejects.toThrow(
      'no file of nvidia-cuda-nvcc 13.0.1',
    );
  });

  it('is the one that pip is set to', () => {
    const home = join(folder, 'home');
    mkdirSync(join(home, '.config/pip'), { recursive: true });
    writeFileSync(
      join(home, '.config/pip/pip.conf'),
      '[global]\nindex-url = https://mirror.example/simple/\nfind-links = /a\n',
    );
    expect(indexUrl({ HOME: home })).toBe('https://mirror.example/simple');
    expect(findLinks({ HOME: home })).toEqual(['/a']);
    expect(indexUrl({ HOME: home, PIP_INDEX_URL: 'https://other.example/simple' })).toBe(
      'https://other.example/simple',
    );
    expect(findLinks({ HOME: home, PIP_FIND_LINKS: '/b file:///c https://far.example/d' })).toEqual(
      ['/b', '/c'],
    );
  });

  it('is followed to relative links', () => {
    const page = JSON.stringify({ files: [{ url: '/files/x.whl', hashes: { sha256: 'ab' } }] });
    expect(linkOf(page, 'application/json', 'https://h.example/simple/x/', { sha256: 'ab' })).toBe(
      'https://h.example/files/x.whl',
    );
  });
});
