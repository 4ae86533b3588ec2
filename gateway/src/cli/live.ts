/** The live view of a run: a block that is redrawn on a terminal, plain lines anywhere else. */
import { timestampMs } from '@bufbuild/protobuf/wkt';
import { printable } from '@spindle/kit';
import { RunStatus, type Run, type StageProgress } from '@spindle/proto';
import { duration, rate, resultsTable, statusName } from './format.js';
import { judgedLines } from './judged-lines.js';
import { verdictOfRun } from './verdict.js';

export interface Losses {
  model: string;
  step: number;
  steps: number;
  loss: number;
  implicitAccuracy: number;
}

const barWidth = 24;
const plainEveryMs = 10_000;

export interface View {
  update(run: Run, losses: Losses | null): void;
  /** That nothing is known until the next update, and why. */
  lost(reason: string): void;
  end(run: Run): void;
}

export function createView(out: NodeJS.WriteStream): View {
  return out.isTTY
    ? new TerminalView(out)
    : new PlainView((line) => void out.write(`${printable(line)}\n`));
}

class TerminalView implements View {
  #drawn = 0;
  #isLost = false;
  readonly #out: NodeJS.WriteStream;

  constructor(out: NodeJS.WriteStream) {
    this.#out = out;
  }

  update(run: Run, losses: Losses | null): void {
    const width = Math.max(20, this.#out.columns);
    // One screen line each, or moving up would miss some.
    const lines = block(run, losses, this.#out.rows).map((line) =>
      Array.from(printable(line))
        .slice(0, width - 1)
        .join(''),
    );
    const up = this.#drawn > 0 ? `\x1b[${this.#drawn}A` : '';
    this.#out.write(`${up}\r\x1b[J${lines.join('\n')}\n`);
    this.#drawn = lines.length;
    this.#isLost = false;
  }

  lost(reason: string): void {
    if (this.#isLost) return;
    this.#isLost = true;
    const line = Array.from(printable(`  ${reason}`)).slice(0, Math.max(20, this.#out.columns) - 1);
    this.#out.write(`${line.join('')}\n`);
    this.#drawn++;
  }

  end(run: Run): void {
    this.update(run, null);
    this.#drawn = 0;
    for (const line of [...judgedLines(run), ...summary(run)])
      this.#out.write(`${printable(line)}\n`);
  }
}

export class PlainView implements View {
  readonly #print: (line: string) => void;
  readonly #states = new Map<string, string>();
  #warnings = 0;
  #printedAt = 0;
  #isLost = false;
  #status = '';
  #loss = '';
  readonly #judged = new Set<string>();

  constructor(print: (line: string) => void) {
    this.#print = print;
  }

  lost(reason: string): void {
    if (!this.#isLost) this.#print(reason);
    this.#isLost = true;
  }

  update(run: Run, losses: Losses | null): void {
    if (this.#isLost) this.#print('connected again');
    this.#isLost = false;
    const status = statusName(run.status);
    if (status !== this.#status)
      this.#print(`${run.runId}: ${status}${run.reason === '' ? '' : ` (${run.reason})`}`);
    this.#status = status;
    for (const stage of run.stages) {
      const known = this.#states.get(stage.stage) ?? 'waiting';
      if (known === stage.state) continue;
      this.#states.set(stage.stage, stage.state);
      this.#print(
        `${stage.stage}: ` +
          `${stage.state}${stage.state === 'done' ? ` (${stage.total} in ${duration(stage.seconds)})` : ''}`,
      );
    }
    for (const warning of run.warnings.slice(this.#warnings)) this.#print(`warning: ${warning}`);
    this.#warnings = run.warnings.length;
    for (const line of judgedLines(run)) {
      if (this.#judged.has(line)) continue;
      this.#judged.add(line);
      this.#print(line);
    }
    if (Date.now() - this.#printedAt < plainEveryMs) return;
    this.#printedAt = Date.now();
    for (const stage of run.stages.filter((s) => s.state === 'running' && s.done > 0))
      this.#print(progressText(stage));
    if (status === 'running' && run.etaSeconds > 0)
      this.#print(`the whole run: about ${duration(run.etaSeconds)} left`);
    // Between two trainings the last step stays the last one: said once.
    const loss = losses ? lossText(losses) : this.#loss;
    if (loss !== this.#loss) this.#print(loss);
    this.#loss = loss;
  }

  end(run: Run): void {
    this.#printedAt = Date.now();
    this.update(run, null);
    for (const line of summary(run)) this.#print(line);
  }
}

/**
 * At most as many lines as the screen has: what scrolled away cannot be redrawn. The stages that
 * ended first are counted, not listed.
 */
function block(run: Run, losses: Losses | null, rows: number): string[] {
  const since = run.createdAt ? duration((Date.now() - timestampMs(run.createdAt)) / 1000) : '';
  const left =
    run.etaSeconds > 0 && statusName(run.status) === 'running'
      ? `, about ${duration(run.etaSeconds)} left`
      : '';
  const waiting = run.stages.filter((stage) => stage.state === 'waiting').length;
  const why = statusName(run.status) === 'queued' && run.reason !== '' ? `, ${run.reason}` : '';
  const head = `${run.runId}  ${statusName(run.status)}  ${since}${left}${why}`;
  const ended: string[] = [];
  const lines: string[] = [];
  for (const stage of run.stages) {
    if (stage.state === 'running') lines.push(`  ${bar(stage)} ${progressText(stage)}`);
    else if (stage.state !== 'waiting')
      ended.push(
        `  ${stage.state.padEnd(barWidth + 2)} ${stage.stage} (${stage.done}/${stage.total}, ` +
          `${duration(stage.seconds)})`,
      );
  }
  if (waiting > 0) lines.push(`  ${waiting} stages to come`);
  if (losses) lines.push(`  ${lossText(losses)}`);
  for (const line of judgedLines(run).slice(-1)) lines.push(`  ${line}`);
  if (run.deadJobs.length > 0)
    lines.push(`  dead jobs: ${run.deadJobs.map((job) => job.key).join(', ')}`);
  const [last] = run.warnings.slice(-1);
  if (last !== undefined) lines.push(`  warning: ${last}`);
  // One line is the head's, one the cursor's.
  const room = Math.max(1, rows - 2 - lines.length);
  const hidden = ended.length > room ? ended.length - room + 1 : 0;
  if (hidden > 0)
    ended.splice(0, hidden, `  ${String(hidden).padStart(barWidth)} stages have ended before`);
  return [head, ...ended, ...lines];
}

function bar(stage: StageProgress): string {
  const filled = stage.total > 0 ? Math.round((barWidth * stage.done) / stage.total) : 0;
  return `[${'█'.repeat(filled)}${'·'.repeat(barWidth - filled)}]`;
}

function progressText(stage: StageProgress): string {
  const parts = [
    `${stage.stage} ${stage.done}/${stage.total}`,
    rate(stage.rate),
    stage.etaSeconds >= 0 ? `${duration(stage.etaSeconds)} left` : '',
  ];
  return parts.filter((part) => part !== '').join(', ');
}

function lossText(losses: Losses): string {
  const loss = `${losses.model} step ${losses.step}/${losses.steps}: loss ${losses.loss.toFixed(4)}`;
  // Plain fine-tuning has no opponent to be told from.
  return losses.model === 'sft'
    ? loss
    : `${loss}, implicit accuracy ${losses.implicitAccuracy.toFixed(3)}`;
}

function summary(run: Run): string[] {
  const lines: string[] = [];
  if (run.reason !== '') lines.push(run.reason);
  for (const job of run.deadJobs) lines.push(`dead job ${job.key}: ${job.reason}`);
  if (run.results.length > 0) lines.push('', ...resultsTable(run.results, run.bestModel));
  const verdict = verdictOfRun(run);
  if (verdict !== '') lines.push('', verdict);
  if (run.status === RunStatus.PAUSED)
    lines.push('', `It is kept as it is; go on with: npx spindle resume ${run.runId}`);
  else
    lines.push(
      '',
      `${run.status === RunStatus.SUCCEEDED ? 'results' : 'folder'}: ${run.directory}`,
    );
  return lines;
}
