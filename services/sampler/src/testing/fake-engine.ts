/**
 * An engine of plain arithmetic: the same inputs give the same numbers, and every call is on
 * record.
 */
import { basename } from 'node:path';
import { SpindleError } from '@spindle/kit';
import { nearestSize } from '@spindle/data';
import type { LoraFile, ModelReport, TextStates } from '@spindle/models';
import type { ModelSourceDto, RgbImage, TensorDto } from '@spindle/native';
import type { LoadedPipeline, LoadedUnet, SamplerEngine } from '../engine.js';

const tokens = 3;
const width = 2;

export class FakeUnet implements LoadedUnet {
  constructor(
    readonly weight: number,
    readonly log: string[],
    readonly name: string,
  ) {}

  release(): void {
    this.log.push(`free unet ${this.name}`);
  }
}

export interface FakeEngine extends SamplerEngine {
  readonly log: string[];
  /** Set to make drawing wait until it is cancelled. */
  hang: boolean;
  /** Above 0: the pipeline is SDXL's. */
  pooledWidth: number;
}

export function fakeEngine(): FakeEngine {
  const log: string[] = [];
  const engine: FakeEngine = {
    log,
    hang: false,
    pooledWidth: 0,
    info: {
      version: '0',
      backend: 'fake',
      isa: 'none',
      threads: 1,
      cpu: 'none',
      backends: ['fake'],
    },
    async choosePrecision() {
      log.push('measure');
      return { precision: 'bfloat16', reason: 'it was faster' };
    },
    inspect(path, sampling): ModelReport {
      if (sampling !== undefined)
        log.push(`check ${sampling.scheduler} ${sampling.steps} ${sampling.overridesJson}`);
      if (path.includes('missing'))
        throw Object.assign(
          new Error(`${path}/model_index.json: expected a readable file, got no such file`),
          {
            code: 'INVALID_ARGUMENT',
          },
        );
      return {
        kind: 'StableDiffusionPipeline',
        parameters: { unet: 7 },
        latentChannels: 4,
        vaeScale: 4,
        unetScale: 2,
        sampleSize: 16,
        textTokens: tokens,
        textWidth: width,
        predictionType: 'epsilon',
        trainTimesteps: 1000,
        endsInNoise: false,
        scheduler: 'DDIMScheduler',
        embeddingWidth: 0,
        linearLayers: [],
        warnings: ['w'],
      };
    },
    async readImage(bytes, where, { sizes, framings }) {
      if (bytes.toString().startsWith('broken'))
        throw Object.assign(
          new Error(`${where}: expected an image, got a file that does not decode`),
          { code: 'INVALID_ARGUMENT' },
        );
      log.push(`read ${where.split('/').at(-1) ?? ''}`);
      // Its aspect ratio is that of the size in its bytes, "…10x30", 1 without.
      const [, across = '1', down = '1'] = /(\d+)x(\d+)/.exec(bytes.toString()) ?? [];
      const { height, width: side } = nearestSize(sizes, {
        height: Number(down),
        width: Number(across),
      });
      return framings.map(({ flip, at }) => ({
        // A flipped image is one brighter, so that tests see it.
        rgb: new Uint8Array(height * side * 3).fill((bytes[0] ?? 0) + Number(flip)),
        width: side,
        height,
        timeIds: [
          30,
          20,
          at ? Math.floor(at.y * 100) : 1,
          at ? Math.floor(at.x * 100) : 2,
          height,
          side,
        ],
      }));
    },
    unetSource: (directory): ModelSourceDto => ({
      config: '{}',
      weights: [`${directory}/w`],
      label: directory,
    }),
    adaptedUnet: (_directory, unet, lora) => ({ ...unet, label: `${unet.label}${added(lora)}` }),
    async loadPipeline(directory, precision, lora) {
      if (directory.includes('missing'))
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `${directory}: expected a pipeline folder, got no such folder`,
        );
      log.push(`pipeline ${directory}${added(lora)} ${precision}`);
      return new FakePipeline(engine);
    },
    async loadUnet(source, precision) {
      log.push(`unet ${source.label} ${precision}`);
      return new FakeUnet(source.label.length, log, source.label);
    },
    close: () => undefined,
  };
  return engine;
}

function added(lora: readonly LoraFile[]): string {
  return lora.map(({ path, scale }) => ` + ${basename(path)}:${scale}`).join('');
}

class FakePipeline implements LoadedPipeline {
  readonly textShape: [number, number] = [tokens, width];

  constructor(readonly engine: FakeEngine) {}

  get pooledWidth(): number {
    return this.engine.pooledWidth;
  }

  latentShape(height: number, width_: number): [number, number, number] {
    return [1, (height || 8) / 4, (width_ || 8) / 4];
  }

  async encodeTexts(
    prompts: readonly string[],
  ): Promise<TextStates & { cut: Set<number>; phases: [] }> {
    this.engine.log.push(`texts ${prompts.join(' ')}`);
    const data = Float32Array.from(
      prompts.flatMap((prompt) =>
        Array.from({ length: tokens * width }, (_, i) => prompt.length + i / 10),
      ),
    );
    return {
      text: { data, shape: [prompts.length, tokens, width] },
      pooled:
        this.pooledWidth === 0
          ? null
          : {
              data: Float32Array.from(
                prompts.flatMap((prompt) =>
                  new Array<number>(this.pooledWidth).fill(prompt.length),
                ),
              ),
              shape: [prompts.length, this.pooledWidth],
            },
      cut: new Set([...prompts.keys()].filter((n) => (prompts[n]?.length ?? 0) > 20)),
      phases: [],
    };
  }

  async encodeImages(
    images: readonly { rgb: Uint8Array; width: number; height: number }[],
  ): Promise<{
    mean: TensorDto;
    logvar: TensorDto;
    phases: { name: string; startMs: number; durationMs: number }[];
  }> {
    const [c, h, w] = this.latentShape(images[0]?.height ?? 0, images[0]?.width ?? 0);
    const fill = (of: (value: number) => number): TensorDto => ({
      data: Float32Array.from(
        images.flatMap((image) => Array.from({ length: c * h * w }, () => of(image.rgb[0] ?? 0))),
      ),
      shape: [images.length, c, h, w],
    });
    return {
      mean: fill((value) => value / 100),
      logvar: fill((value) => -value),
      phases: [{ name: 'vae_encode', startMs: 0, durationMs: 1 }],
    };
  }

  modelCalls({ steps }: { steps: number }): number {
    return steps;
  }

  async draw(
    unet: LoadedUnet,
    items: readonly { prompt: string; seed: bigint }[],
    sampling: { steps: number; height: number; width: number },
    { signal, real }: { signal: AbortSignal; real?: TensorDto },
  ): Promise<{
    latents: TensorDto;
    phases: { name: string; startMs: number; durationMs: number }[];
  }> {
    this.engine.log.push(
      `draw ${items.length}${real ? ` from [${real.shape.join(', ')}] ${[...real.data].join(' ')}` : ''}`,
    );
    if (this.engine.hang) {
      await new Promise((_resolve, reject) => {
        const stop = (): void => {
          this.engine.log.push('cancelled');
          reject(Object.assign(new Error('cancelled between steps'), { code: 'CANCELLED' }));
        };
        if (signal.aborted) stop();
        else signal.addEventListener('abort', stop, { once: true });
      });
    }
    const [c, h, w] = this.latentShape(sampling.height, sampling.width);
    const weight = unet instanceof FakeUnet ? unet.weight : 0;
    const data = Float32Array.from(
      items.flatMap((item) =>
        Array.from(
          { length: c * h * w },
          (_, i) => weight + item.prompt.length + Number(item.seed) + sampling.steps + i,
        ),
      ),
    );
    return {
      latents: { data, shape: [items.length, c, h, w] },
      phases: [{ name: 'unet_steps', startMs: 0, durationMs: 2 }],
    };
  }

  async decode(latents: TensorDto): Promise<Uint8Array[]> {
    const [count = 0, ...rest] = latents.shape;
    const size = rest.reduce((product, n) => product * n, 1);
    return Array.from({ length: count }, (_, n) =>
      Buffer.from(`png ${[...latents.data.subarray(n * size, (n + 1) * size)].join(' ')}`),
    );
  }

  async pixels(latents: TensorDto): Promise<RgbImage[]> {
    const [count = 0, , height = 0, width_ = 0] = latents.shape;
    const size = latents.data.length / Math.max(1, count);
    return Array.from({ length: count }, (_, n) => ({
      // Left and right differ, so that tests see a flip.
      rgb: Uint8Array.from({ length: height * width_ * 48 }, (__, i) =>
        i === 0 ? (latents.data[n * size] ?? 0) % 256 : 7,
      ),
      height: height * 4,
      width: width_ * 4,
    }));
  }

  release(): void {
    this.engine.log.push('free pipeline');
  }
}
