import { InvalidArgumentError, Option } from 'commander';
import { Engine, type NativeAddon, type NativePrecision } from '@spindle/native';

/** What the composition root hands to every command. */
export interface CliContext {
  /** The addon's file, or the addon itself in tests; the built one when undefined. */
  addon: string | NativeAddon | undefined;
  write: (line: string) => void;
  warn: (line: string) => void;
  setExitCode: (code: number) => void;
}

export interface EngineFlags {
  backend: string;
  threads: number;
  isa: string;
}

export function openEngine(context: CliContext, flags: EngineFlags): Engine {
  return Engine.open({
    ...flags,
    ...(context.addon === undefined ? {} : { addon: context.addon }),
  });
}

export function integer(minimum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < minimum)
      throw new InvalidArgumentError(
        `expected an integer of at least ${minimum}, got ${JSON.stringify(text)}.`,
      );
    return value;
  };
}

export function decimal(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value))
    throw new InvalidArgumentError(`expected a number, got ${JSON.stringify(text)}.`);
  return value;
}

export function seed(text: string): bigint {
  if (!/^\d{1,20}$/.test(text) || BigInt(text) >= 2n ** 64n)
    throw new InvalidArgumentError(
      `expected an integer from 0 to 2^64 - 1, got ${JSON.stringify(text)}.`,
    );
  return BigInt(text);
}

export const backendOption = (): Option =>
  new Option(
    '--backend <name>',
    'device to compute on: auto, cpu, cuda, cuda:N (its device N) or reference; auto is cuda ' +
      'where it can be used',
  )
    .default('cpu')
    .argParser((text) => {
      if (!/^(auto|cpu|cuda|cuda:\d{1,3}|reference)$/.test(text))
        throw new InvalidArgumentError(
          `expected auto, cpu, cuda, cuda:N or reference, got ${JSON.stringify(text)}.`,
        );
      return text;
    });
export const threadsOption = (): Option =>
  new Option('--threads <n>', 'threads; 0 takes all cores this process may use')
    .default(0)
    .argParser(integer(0));
export const isaOption = (): Option =>
  new Option('--isa <name>', 'highest instruction set to use')
    .choices(['auto', 'amx', 'avx512_bf16', 'avx512', 'avx2', 'generic'])
    .default('auto');
export const precisionOption = (): Option =>
  new Option('--precision <name>', 'type of weights and activations')
    .choices(['float32', 'bfloat16'] satisfies NativePrecision[])
    .default('float32');
export const jsonOption = (): Option =>
  new Option('--json', 'print JSON for machines').default(false);
