/** `spindle-engine parity`: exit code 1 when a tensor fails, 2 when a fixture cannot be read. */
import { statSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import type { Command } from 'commander';
import {
  type Engine,
  toEngineError,
  type EngineError,
  type NativePrecision,
  type ParityLineDto,
} from '@spindle/native';
import { nativeKinds, readFixture, statesTolerance } from './fixture.js';
import {
  backendOption,
  isaOption,
  jsonOption,
  openEngine,
  precisionOption,
  threadsOption,
  type CliContext,
  type EngineFlags,
} from './options.js';
import { replay } from './replay.js';

interface ParityFlags extends EngineFlags {
  precision: NativePrecision;
  json: boolean;
  model?: string;
}

export function addParity(program: Command, context: CliContext): void {
  program
    .command('parity')
    .description(
      'replay golden fixtures and print the error of every tensor; exit code 1 if any fails, ' +
        '2 if a fixture cannot be read',
    )
    .argument('<fixture-dir...>', 'folders that hold a fixture.json')
    .addOption(backendOption())
    .addOption(precisionOption())
    .addOption(threadsOption())
    .addOption(isaOption())
    .option('--model <dir>', "pipeline folder to use instead of a pipeline fixture's own")
    .addOption(jsonOption())
    .action((directories: string[], flags: ParityFlags) => parity(directories, flags, context));
}

async function parity(
  given: readonly string[],
  flags: ParityFlags,
  context: CliContext,
): Promise<void> {
  const directories = withoutFiles(given, context);
  let engine: Engine | undefined;
  // The tokenizer needs no engine, so a machine without a build can still replay it.
  let noEngine: EngineError | undefined;
  const open = (): Engine => {
    try {
      return (engine ??= openEngine(context, flags));
    } catch (thrown) {
      throw (noEngine = toEngineError(thrown));
    }
  };
  const label = labels(directories);
  let passed = 0;
  let failed = 0;
  let unreadable = 0;
  for (const [index, directory] of directories.entries()) {
    let lines: ParityLineDto[];
    try {
      lines = await replayOne(resolve(directory), open, flags, context);
    } catch (thrown) {
      const error = toEngineError(thrown);
      // Without an engine it is not the fixture that cannot be read.
      if (error === noEngine) throw error;
      context.warn(`error: ${error.message}`);
      unreadable++;
      continue;
    }
    for (const line of lines) {
      if (line.ok) passed++;
      else failed++;
      print({ ...line, fixture: label[index] ?? directory }, flags.json, context);
    }
  }
  context.write(
    flags.json
      ? JSON.stringify({ passed, failed })
      : `${passed} passed, ${failed} failed${unreadable > 0 ? `, ${unreadable} unreadable` : ''}`,
  );
  context.setExitCode(unreadable > 0 ? 2 : failed > 0 ? 1 : 0);
}

function replayOne(
  directory: string,
  open: () => Engine,
  flags: ParityFlags,
  context: CliContext,
): Promise<ParityLineDto[]> {
  const fixture = readFixture(directory);
  let precision = flags.precision;
  if (
    precision !== 'float32' &&
    fixture.kind !== 'tokenizer' &&
    !statesTolerance(fixture, precision)
  ) {
    context.warn(`note: ${directory} states no ${precision} tolerance; replayed in float32`);
    precision = 'float32';
  }
  if (nativeKinds.has(fixture.kind)) return open().parity(directory, precision);
  return replay(fixture, open, { precision, model: flags.model });
}

/** Folder names, or the paths as given where two names are equal. */
function labels(directories: readonly string[]): string[] {
  const names = directories.map((directory) => basename(resolve(directory)));
  return names.map((name, index) =>
    names.filter((other) => other === name).length > 1 ? (directories[index] ?? name) : name,
  );
}

function print(line: ParityLineDto, json: boolean, context: CliContext): void {
  const { fixture, kind, tensor, relL2, maxAbs, ok } = line;
  if (json) context.write(JSON.stringify({ fixture, kind, tensor, relL2, maxAbs, ok }));
  else
    context.write(
      `${ok ? 'pass' : 'FAIL'}  ${fixture}  ${tensor}  relL2 ${relL2.toExponential(2)}  ` +
        `maxAbs ${maxAbs.toExponential(2)}`,
    );
}

/** A shell's "fixtures/*" also names what lies beside the folders, such as a README. */
function withoutFiles(given: readonly string[], context: CliContext): readonly string[] {
  const isFile = (path: string): boolean =>
    statSync(path, { throwIfNoEntry: false })?.isFile() === true;
  const folders = given.filter((path) => !isFile(path));
  // A file alone is a mistake, and refused as one.
  if (folders.length === 0) return given;
  for (const path of given.filter(isFile)) context.warn(`note: ${path} is no folder and left out`);
  return folders;
}
