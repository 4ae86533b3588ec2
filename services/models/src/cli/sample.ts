/** `spindle-engine sample`: draws one image outside any run. */
import { Option, type Command } from 'commander';
import { writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { adaptedUnet, loraFile, type LoraFile } from '../pipeline/adapters.js';
import { checkKeys } from '../config-keys/rules.js';
import { schedulerClasses } from '../config-keys/schedulers.js';
import { unetKeys } from '../config-keys/unet.js';
import { configFile, configOf } from '../pipeline/pipeline.js';
import { encodePng, toRgb } from '../pipeline/images.js';
import { invalid, type NativePrecision } from '@spindle/native';
import { resolveScheduler } from '../pipeline/scheduler.js';
import { TextToImage } from '../pipeline/text-to-image.js';
import { componentSource, requireDirectory } from '../files/weights.js';
import {
  backendOption,
  decimal,
  integer,
  isaOption,
  jsonOption,
  openEngine,
  precisionOption,
  seed,
  threadsOption,
  type CliContext,
  type EngineFlags,
} from './options.js';

interface SampleFlags extends EngineFlags {
  model: string;
  unet?: string;
  lora: LoraFile[];
  loraUnetOnly: boolean;
  prompt: string;
  seed: bigint;
  steps: number;
  cfg: number;
  eta: number;
  scheduler?: string;
  height: number;
  width: number;
  precision: NativePrecision;
  out: string;
  json: boolean;
}

export function addSample(program: Command, context: CliContext): void {
  program
    .command('sample')
    .description('draw one image from a prompt')
    .requiredOption(
      '--model <dir>',
      'pipeline folder in diffusers format; DIR@fp16 takes the weights of a variant',
    )
    .requiredOption('--prompt <text>', 'what to draw')
    .requiredOption('--out <file.png>', 'where to write the image')
    .option('--unet <dir>', "unet folder to use instead of the pipeline's own")
    .option(
      '--lora <file[:scale]>',
      'LoRA to add to the U-Net and the text encoders: a file of diffusers, PEFT or sd-scripts, ' +
        'or a folder of diffusers or PEFT; SCALE multiplies its own; may be given more than once',
      adapter,
      [],
    )
    .option('--lora-unet-only', 'leave out what LoRA files add to text encoders', false)
    .addOption(
      new Option('--seed <n>', "seed of PyTorch's CPU generator").argParser(seed).default(0n, '0'),
    )
    .option('--steps <n>', 'denoising steps', integer(1), 50)
    .option('--cfg <x>', 'guidance scale; it guides above 1 only, as in diffusers', decimal, 7.5)
    .option('--eta <x>', "DDIM's eta; 0 is deterministic", decimal, 0)
    .option(
      '--scheduler <name>',
      `${schedulerClasses.slice(0, -1).join(', ')} or ${schedulerClasses.at(-1)}; ` +
        "the pipeline's own unless told",
    )
    .option('--height <pixels>', "the pipeline's own unless told", integer(0), 0)
    .option('--width <pixels>', "the pipeline's own unless told", integer(0), 0)
    .addOption(precisionOption())
    .addOption(backendOption())
    .addOption(threadsOption())
    .addOption(isaOption())
    .addOption(jsonOption())
    .action((flags: SampleFlags) => sample(flags, context));
}

/** "FILE" or "FILE:SCALE", added to those before. */
function adapter(text: string, before: LoraFile[]): LoraFile[] {
  const [, path = text, scale = '1'] = /^(.+):(-?[\d.]+(?:e-?\d+)?)$/.exec(text) ?? [];
  return [...before, { path: resolve(path), scale: decimal(scale) }];
}

async function sample(flags: SampleFlags, context: CliContext): Promise<void> {
  const started = performance.now();
  const out = resolve(flags.out);
  requireDirectory(dirname(out), 'a folder to write --out into');
  const engine = openEngine(context, flags);
  if (flags.loraUnetOnly && flags.lora.length === 0)
    throw invalid('--lora-unet-only', 'expected a --lora beside it, got none');
  const lora = flags.lora.map(({ path, scale }) => ({ path: loraFile(path), scale }));
  const model = await TextToImage.load(
    engine,
    resolve(flags.model),
    flags.precision,
    flags.loraUnetOnly ? [] : lora,
  );
  const { textTowers, textTokens, warnings } = model.pipeline;
  for (const warning of warnings) context.warn(`warning: ${warning}`);
  const truncated = Math.max(
    ...textTowers.map(({ tokenizer }) => tokenizer.encode(flags.prompt, textTokens).truncated),
  );
  if (truncated > 0)
    context.warn(
      `warning: the prompt is longer than the text encoder's ${textTokens} tokens; the last ` +
        `${truncated} were cut`,
    );
  const source =
    flags.unet === undefined
      ? model.pipeline.unet
      : componentSource(resolve(flags.unet), 'diffusion_pytorch_model');
  if (flags.unet !== undefined)
    for (const warning of checkKeys(configOf(source), unetKeys, configFile(source)))
      context.warn(`warning: ${warning}`);
  const unet = await engine.loadUnet(adaptedUnet(model.pipeline, source, lora), flags.precision);
  const { latents } = await model.latents(unet, [flags.prompt], [flags.seed], {
    schedulerConfig: resolveScheduler(model.pipeline.scheduler, flags.scheduler ?? '', ''),
    steps: flags.steps,
    guidanceScale: flags.cfg,
    eta: flags.eta,
    height: flags.height,
    width: flags.width,
    batchSize: 1,
  });
  const image = toRgb(await model.decode(latents, 1), 0);
  await writeFile(out, await encodePng(image));
  const seconds = (performance.now() - started) / 1000;
  if (flags.json)
    context.write(
      JSON.stringify({
        out,
        width: image.width,
        height: image.height,
        seed: flags.seed.toString(),
        seconds,
      }),
    );
  else
    context.write(
      `${flags.out}: ${image.width}x${image.height}, seed ${flags.seed}, ${seconds.toFixed(1)} s`,
    );
}
