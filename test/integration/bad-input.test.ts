import {
  appendFile,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  rm,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import {
  copyData,
  copyModel,
  dropLastTensor,
  editJson,
  rewriteHeader,
  unetWeights,
  withHeader,
} from '../harness/broken.js';
import { cli, startCli } from '../harness/cli.js';
import { tinyConfig } from '../harness/config.js';
import { Mesh } from '../harness/mesh.js';
import { until } from '../harness/wait.js';

type Config = ReturnType<typeof tinyConfig> & Record<string, unknown>;
interface Case {
  about: string;
  /** Damages the config, or copies of model and data below `folder`. */
  change: (config: Config, folder: string) => Promise<void> | void;
  message: RegExp;
}

const damagedModel =
  (damage: (model: string) => Promise<void>) =>
  async (config: Config, folder: string): Promise<void> => {
    config.model = await copyModel(folder);
    await damage(config.model);
  };
const damagedData =
  (damage: (data: string) => Promise<void>) =>
  async (config: Config, folder: string): Promise<void> => {
    config.data = { ...config.data, path: await copyData(folder, 8) };
    await damage(config.data.path);
  };

const convIn = 'conv_in.weight';
const cases: Case[] = [
  {
    about: 'an unknown key, with the nearest valid one',
    change: (config) => void (config['iteration'] = 3),
    message: /config\.yaml:\d+: .*iteration.*did you mean.*iterations/,
  },
  {
    about: 'an unknown nested key',
    change: (config) => void Object.assign(config.train, { stepz: 3 }),
    message: /config\.yaml:\d+: train.*stepz.*steps/,
  },
  {
    about: 'a value of the wrong type',
    change: (config) => void Object.assign(config.train, { steps: 'many' }),
    message: /config\.yaml:\d+: train\.steps: expected .*got "many"/,
  },
  {
    about: 'a value out of range',
    change: (config) => void Object.assign(config.sampling, { guidance_scale: 0 }),
    message: /sampling\.guidance_scale: expected .*got 0/,
  },
  {
    about: 'settings that do not fit together',
    change: (config) => void Object.assign(config.train, { batch_size: 5 }),
    message: /train\.gradient_accumulation: expected a divisor of train\.batch_size 5, got 2/,
  },
  {
    about: 'a LoRA target that the U-Net does not have',
    change: (config) => void Object.assign(config.train, { lora: { targets: ['to_q', 'to_z'] } }),
    message: /train\.lora\.targets: expected names of linear layers .*to_q.*, got "to_z"/,
  },
  {
    about: 'a model that is not there',
    change: (config) => void (config.model = '/nowhere/at-all'),
    message: /model: expected a folder, got "\/nowhere\/at-all"/,
  },
  {
    about: 'a model folder without weights',
    change: damagedModel((model) => rm(unetWeights(model))),
    message: /model\/unet: expected diffusion_pytorch_model\.safetensors/,
  },
  {
    about: 'a truncated file',
    change: damagedModel((model) => truncate(unetWeights(model), 200_000)),
    message: /unet\/diffusion_pytorch_model\.safetensors: .*expected .*got/,
  },
  {
    about: 'a missing tensor',
    change: damagedModel((model) => dropLastTensor(unetWeights(model))),
    message: /unet.*: .*expected .*\(.*\).*/,
  },
  {
    about: 'a tensor that the config knows nothing of',
    change: damagedModel((model) =>
      rewriteHeader(unetWeights(model), (header) => {
        header['conv_in.unknown'] = header[convIn]!;
        Reflect.deleteProperty(header, convIn);
      }),
    ),
    message: /conv_in\.(unknown|weight)/,
  },
  {
    about: 'a tensor of the wrong shape',
    change: damagedModel((model) =>
      rewriteHeader(unetWeights(model), (header) => void header[convIn]!.shape.reverse()),
    ),
    message: /conv_in\.weight: .*expected .*got/,
  },
  {
    about: 'an option that the engine does not have',
    change: damagedModel((model) =>
      editJson(
        join(model, 'unet/config.json'),
        (config) => void (config['class_embed_type'] = 'timestep'),
      ),
    ),
    message: /unet.*class_embed_type/,
  },
  {
    about: 'a block that the engine does not have',
    change: damagedModel((model) =>
      editJson(
        join(model, 'unet/config.json'),
        (config) => void ((config['down_block_types'] as string[])[0] = 'SkipDownBlock2D'),
      ),
    ),
    message: /unet.*down_block_types.*SkipDownBlock2D/,
  },
  {
    about: 'tensors that overlap',
    change: damagedModel((model) =>
      rewriteHeader(unetWeights(model), (header) => {
        const [first, second] = Object.values(header).filter((entry) =>
          Array.isArray(entry.data_offsets),
        );
        const size = second!.data_offsets[1] - second!.data_offsets[0];
        second!.data_offsets = [first!.data_offsets[0], first!.data_offsets[0] + size];
      }),
    ),
    message: /diffusion_pytorch_model\.safetensors: .*(overlap|hole|offset)/i,
  },
  {
    about: 'a hole between tensors',
    change: damagedModel(async (model) => {
      await rewriteHeader(unetWeights(model), (header) => {
        for (const entry of Object.values(header))
          if (Array.isArray(entry.data_offsets))
            entry.data_offsets = [entry.data_offsets[0] + 8, entry.data_offsets[1] + 8];
      });
      await appendFile(unetWeights(model), Buffer.alloc(8));
    }),
    message: /diffusion_pytorch_model\.safetensors: .*(hole|gap|offset|start)/i,
  },
  {
    about: 'a tensor that ends past the end of the file',
    change: damagedModel((model) =>
      rewriteHeader(
        unetWeights(model),
        (header) => void (header[convIn]!.data_offsets = [0, 1e15]),
      ),
    ),
    message: /diffusion_pytorch_model\.safetensors: .*(conv_in\.weight|offset)/,
  },
  {
    about: 'a header longer than the file',
    change: damagedModel((model) =>
      writeFile(unetWeights(model), withHeader('{}', new Uint8Array(16), 2 ** 50)),
    ),
    message: /diffusion_pytorch_model\.safetensors: .*header/i,
  },
  {
    about: 'a header that is no JSON',
    change: damagedModel((model) =>
      writeFile(unetWeights(model), withHeader('{"a":', new Uint8Array(16))),
    ),
    message: /diffusion_pytorch_model\.safetensors: /,
  },
  {
    about: 'a shape whose product is astronomic',
    change: damagedModel((model) =>
      rewriteHeader(
        unetWeights(model),
        (header) => void (header[convIn]!.shape = [2 ** 31, 2 ** 31, 2 ** 31, 4]),
      ),
    ),
    message: /diffusion_pytorch_model\.safetensors: .*conv_in\.weight/,
  },
  {
    about: 'pickled weights',
    change: damagedModel(async (model) => {
      await rm(unetWeights(model));
      await writeFile(join(model, 'unet/diffusion_pytorch_model.bin'), 'x');
    }),
    message: /pickle files are refused/,
  },
  {
    about: 'a data folder that is not there',
    change: (config) => void (config.data.path = '/nowhere/data'),
    message: /data\.path: expected a folder/,
  },
  {
    about: 'a data folder without metadata',
    change: damagedData((data) => rm(join(data, 'metadata.jsonl'))),
    message: /data\.path: expected metadata\.jsonl or metadata\.csv/,
  },
  {
    about: 'an empty data set',
    change: damagedData((data) => writeFile(join(data, 'metadata.jsonl'), '\n')),
    message: /expected at least one row, got an empty data set/,
  },
  {
    about: 'rows without a file, listed',
    change: damagedData(async (data) => {
      await rm(join(data, '0003.png'));
      await rm(join(data, '0005.png'));
    }),
    message:
      /expected a file for every row, got none for 0003\.png \(line 4\), 0005\.png \(line 6\)/,
  },
  {
    about: 'a row that leaves the data folder',
    change: damagedData((data) =>
      appendFile(join(data, 'metadata.jsonl'), '{"file_name":"../model/x.png","text":"a"}\n'),
    ),
    message:
      /metadata\.jsonl:9: file_name: expected a path inside the data folder, got "\.\.\/model\/x\.png"/,
  },
  {
    about: 'an absolute path in a row',
    change: damagedData((data) =>
      appendFile(join(data, 'metadata.jsonl'), '{"file_name":"/etc/passwd","text":"a"}\n'),
    ),
    message: /metadata\.jsonl:9: file_name: .*inside the data folder/,
  },
  {
    about: 'a link out of the data folder',
    change: damagedData(async (data) => {
      await symlink('/etc/hostname', join(data, 'link.png'));
      await appendFile(join(data, 'metadata.jsonl'), '{"file_name":"link.png","text":"a"}\n');
    }),
    message: /metadata\.jsonl:9: file_name: .*inside the data folder/,
  },
  {
    about: 'a row that is no JSON',
    change: damagedData((data) => appendFile(join(data, 'metadata.jsonl'), 'nonsense\n')),
    message: /metadata\.jsonl:9: expected one JSON object per line/,
  },
  {
    about: 'prompts that are not there',
    change: (config) => void (config.evaluation.prompts = '/nowhere/prompts.txt'),
    message: /evaluation\.prompts: expected a file/,
  },
  {
    about: 'a judge that is no CLIP model',
    change: (config) => void (config.evaluation.metrics[0]!.model = config.model),
    message: /evaluation\.metrics\.0\.model: .*expected a CLIPModel/,
  },
];

describe('bad input: exit code 2, one clear sentence, nothing half-done', () => {
  let mesh: Mesh;
  let folder: string;
  beforeAll(async () => {
    mesh = await Mesh.start();
  });
  afterAll(() => mesh.stop());
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'spindle-bad-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  it.each(cases)('$about', async ({ change, message }) => {
    const config = structuredClone(tinyConfig()) as Config;
    await change(config, folder);
    const file = join(folder, 'config.yaml');
    await writeFile(file, stringify(config));
    // Who tried is written down; of the run nothing may be there.
    const runs = async (): Promise<string[]> =>
      (await readdir(mesh.artifacts)).filter((name) => name !== 'audit.jsonl');
    const before = await runs();
    const result = await mesh.spindle('run', file, '--run-id', 'bad');
    expect(result.stderr).toMatch(message);
    expect(result.stderr.trim().split('\n')).toHaveLength(1);
    expect(result.stderr).not.toMatch(/\n\s+at /);
    expect(result.stdout).toBe('');
    expect(result.code).toBe(2);
    expect(await runs()).toEqual(before);
    expect((await mesh.client.listRuns({})).runs).toEqual([]);
  });

  it('a config that is no YAML names the line', async () => {
    const file = join(folder, 'config.yaml');
    await writeFile(file, 'model: [\nname: x\n');
    const result = await mesh.spindle('run', file);
    expect(result).toMatchObject({ code: 2, stdout: '' });
    expect(result.stderr).toMatch(/config\.yaml:\d+: /);
  });

  it('captions that are empty or too long, and files without a row, are counted and used or left out', async () => {
    const config = structuredClone(tinyConfig()) as Config;
    const data = await copyData(folder, 8);
    const lines = (await readFile(join(data, 'metadata.jsonl'), 'utf8')).trim().split('\n');
    lines.pop();
    const rows = lines.map((line) => JSON.parse(line) as { file_name: string; text: string });
    rows[0]!.text = '';
    rows[1]!.text = 'a red circle '.repeat(40);
    await writeFile(
      join(data, 'metadata.jsonl'),
      rows.map((row) => JSON.stringify(row)).join('\n'),
    );
    config.data.path = data;
    const file = join(folder, 'config.yaml');
    await writeFile(file, stringify(config));
    const { code, stdout } = await mesh.spindle('run', file, '--dry-run');
    expect(stdout).toMatch(/1 images? ha(s|ve) no row.*0007\.png/);
    expect(stdout).toMatch(/1 captions? (is|are) empty/);
    expect(stdout).toMatch(/1 captions? (is|are) longer than the text encoder's 32 tokens/);
    expect(code).toBe(0);
  });
});

describe('a mesh that cannot start says why', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'spindle-up-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));
  const artifacts = (): string => join(folder, 'artifacts');

  it('an artifacts folder in use', async () => {
    const first = startCli(['up', '--artifacts', artifacts()]);
    try {
      await until('the first mesh', () => first.stdout.includes('gRPC:') || undefined);
      const second = await cli(['up', '--artifacts', artifacts()]);
      expect(second.stderr).toMatch(
        /this artifacts folder is in use by another (mesh|gateway) \(process \d+/,
      );
      expect(second.code).toBe(2);
      expect(first.running).toBe(true);
    } finally {
      await first.stop();
    }
  });

  it('a port in use', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    try {
      const { code, stderr } = await cli([
        'up',
        '--artifacts',
        artifacts(),
        '--http-port',
        String(port),
      ]);
      expect(stderr).toMatch(new RegExp(`${port}.*in use`));
      expect(code).toBe(2);
    } finally {
      server.close();
    }
  });

  it('no NATS at the given address', async () => {
    const { code, stderr } = await cli(
      ['up', '--artifacts', artifacts(), '--nats', 'nats://127.0.0.1:1'],
      { env: { SPINDLE_NATS_WAIT: '1' } },
    );
    expect(stderr).toMatch(/nats:\/\/127\.0\.0\.1:1/);
    expect(stderr).toMatch(/nats-server/);
    expect(code).toBe(2);
  });

  it('no mesh at all', async () => {
    await mkdir(artifacts());
    const { code, stderr } = await cli(['ls', '--artifacts', artifacts()]);
    expect(stderr).toMatch(/no mesh is running.*npx spindle up/);
    expect(code).toBe(4);
  });

  it('no mesh for a dry run: one that is gone with the answer', async () => {
    const beside = join(folder, 'beside');
    await mkdir(beside);
    const file = join(folder, 'alone.json');
    await writeFile(file, JSON.stringify(tinyConfig()));
    const dry = ['run', file, '--dry-run', '--artifacts', join(beside, 'artifacts')];
    const { code, stdout, stderr } = await cli(dry);
    expect([code, stderr]).toEqual([
      0,
      'spindle: no mesh is running; starting one for this check\n',
    ]);
    expect(stdout).toMatch(/^iteration 2: against spin1/m);
    expect(await readdir(beside)).toEqual([]);
  });
});
