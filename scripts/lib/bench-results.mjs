// From single measurements to medians, ratios and the table that people read.
import { caseName } from './bench-cases.mjs';

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The result is the last line that is an object: libraries may print before it. */
export function parseResult(stdout) {
  for (const line of stdout.trim().split('\n').reverse()) {
    if (!line.startsWith('{')) continue;
    const { peer, seconds_median: seconds, peak_mib: peakMib } = JSON.parse(line);
    if (typeof seconds === 'number' && typeof peakMib === 'number')
      return { program: peer, seconds, peakMib };
  }
  throw new Error('it printed no result');
}

/**
 * `runs` of one program; a failed one makes the whole measurement failed, since a median of the
 * lucky ones would flatter it.
 */
export function summarise(command, runs) {
  const failed = runs.find((run) => run.failed !== undefined);
  if (failed !== undefined) return { command, failed: failed.failed };
  return {
    program: runs[0].program,
    command,
    seconds: runs.map((run) => run.seconds),
    seconds_median: median(runs.map((run) => run.seconds)),
    peak_mib: Math.max(...runs.map((run) => run.peakMib)),
  };
}

/**
 * Speed above 1: Spindle is faster. Memory below 1: Spindle needs less. Null where one side has no
 * figure.
 */
export function ratios(spindle, peer) {
  if (peer === null || spindle.failed !== undefined || peer.failed !== undefined)
    return { speed_ratio: null, memory_ratio: null };
  return {
    speed_ratio: peer.seconds_median / spindle.seconds_median,
    memory_ratio: spindle.peak_mib / peer.peak_mib,
  };
}

/** "avx512_bf16" of "spindle 0.1.0 avx512_bf16". */
export function isaOf(program) {
  return program.split(' ').at(-1);
}

const seconds = (side) =>
  side.failed !== undefined ? `failed: ${side.failed}` : side.seconds_median.toPrecision(3);
const mib = (side) =>
  side.failed !== undefined ? '–' : Math.round(side.peak_mib).toLocaleString('en-US');
const times = (ratio) => (ratio === null ? '–' : `${ratio.toFixed(2)}×`);

/** Without a peer, only Spindle's columns. */
export function markdownTable(records) {
  const withPeer = records.some((record) => record.peer !== null);
  const head = withPeer
    ? [
        'task',
        'Spindle, s',
        'peer, s',
        'peer / Spindle',
        'Spindle, peak MiB',
        'peer, peak MiB',
        'Spindle / peer',
      ]
    : ['task', 'Spindle, s', 'Spindle, peak MiB'];
  const rows = records.map((record) => {
    const { spindle, peer, speed_ratio: speed, memory_ratio: memory } = record;
    if (!withPeer) return [caseName(record), seconds(spindle), mib(spindle)];
    if (peer === null)
      return [caseName(record), seconds(spindle), '–', '–', mib(spindle), '–', '–'];
    return [
      caseName(record),
      seconds(spindle),
      seconds(peer),
      times(speed),
      mib(spindle),
      mib(peer),
      times(memory),
    ];
  });
  return [head, head.map((_, i) => (i === 0 ? '---' : '---:')), ...rows]
    .map((cells) => `| ${cells.join(' | ')} |`)
    .join('\n');
}
