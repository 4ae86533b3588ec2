/** Two runs by the scores of the images that both drew. Works with the mesh down. */
import { stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import type { Comparison } from '@spindle/kit';
import { verdictText } from '@spindle/kit/domain';
import { differenceText } from '../../config/changes.js';
import { compareRuns, type RunComparison } from '../../compare/compare-runs.js';
import { readRunFiles, type RunFiles } from '../../compare/run-files.js';
import {
  artifactsFolder,
  withCommonOptions,
  type CommonOptions,
  type Environment,
} from '../context.js';
import { table } from '../format.js';
import { findRunFolder } from '../run-id.js';
import { print, printJson } from '../output.js';

interface CompareOptions extends CommonOptions {
  modelA?: string;
  modelB?: string;
}

export function addCompare(program: Command, environment: Environment): void {
  withCommonOptions(
    program
      .command('compare')
      .summary('compare two runs, image by image')
      .description(
        'Pairs the scores of two finished runs by prompt and seed: means, differences with 95 ' +
          '% intervals, win rates, a paired test, and the settings in which the runs differ. ' +
          'With one run named twice, two of its models.',
      )
      .argument('<run-a>', 'run id, the beginning of one, "latest", or the folder of a run')
      .argument('<run-b>', 'the same')
      .option(
        '--model-a <name>',
        "a model of run A: base, sft, dpo, spin1, … (default: the run's best)",
      )
      .option('--model-b <name>', "a model of run B (default: the run's best)")
      .addHelpText(
        'after',
        '\nExamples:\n  npx spindle compare first second\n  npx spindle compare first first ' +
          '--model-a base --model-b spin3 --json',
      ),
  ).action(async (nameA: string, nameB: string, options: CompareOptions) => {
    const [a, b] = [
      await read(nameA, options, environment),
      await read(nameB, options, environment),
    ];
    const comparison = compareRuns(a, b, { a: options.modelA, b: options.modelB });
    if (options.json) printJson(JSON.stringify(comparison));
    else print(comparisonText(comparison).join('\n'));
  });
}

async function read(
  name: string,
  options: CommonOptions,
  environment: Environment,
): Promise<RunFiles> {
  const artifacts = artifactsFolder(options, environment);
  const inArtifacts = join(artifacts, await findRunFolder(artifacts, name));
  const isFolder = async (path: string): Promise<boolean> =>
    (await stat(path).catch(() => null))?.isDirectory() === true;
  return readRunFiles(
    (await isFolder(inArtifacts)) || !(await isFolder(resolve(name))) ? inArtifacts : resolve(name),
    name,
  );
}

export function comparisonText(comparison: RunComparison): string[] {
  const { a, b, paired, only_a: onlyA, only_b: onlyB, metrics, skipped, settings } = comparison;
  const rows = metrics.flatMap((one) => {
    const name = one.category === '' ? one.metric : `  ${one.category}`;
    const row = (label: string, means: [number, number], against: Comparison): string[] => [
      label,
      ...means.map((mean) => mean.toFixed(3)),
      `${signed(against.difference)} (${signed(against.differenceLow)} to ` +
        `${signed(against.differenceHigh)})`,
      `${percent(against.winRate)} (${percent(against.winRateLow)} to ` +
        `${percent(against.winRateHigh)})`,
      percent(against.winRateTiesLose),
      verdictText(against),
      String(against.n),
    ];
    return [
      row(name, [one.a.mean, one.b.mean], one.b_against_a),
      ...(one.best_of
        ? [row(`  best of ${one.a.imagesPerPrompt}`, [one.a.bestMean, one.b.bestMean], one.best_of)]
        : []),
    ];
  });
  return [
    `A: ${a.run} ${a.model}`,
    `B: ${b.run} ${b.model}`,
    `${paired} images of the same prompt and ` +
      `seed${onlyA + onlyB > 0 ? `; ${onlyA} of A and ${onlyB} of B have no counterpart` : ''}`,
    '',
    ...table([
      ['', 'A', 'B', 'B − A (95 %)', 'B wins (95 %)', 'ties lost', 'B is', 'prompts'],
      ...rows,
    ]),
    'Corrected: by Holm, for the metrics (categories among themselves). Better and worse hold ' +
      'at 5 % after it.',
    '',
    ...skipped.map(({ metric, reason }) => `${metric} is not compared: ${reason}.`),
    settings.length === 0 ? 'The settings are the same.' : 'Settings, A → B:',
    ...settings.map((difference) => `  ${differenceText(difference)}`),
  ];
}

function signed(value: number): string {
  return `${value >= 0 ? '+' : '−'}${Math.abs(value).toFixed(3)}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
