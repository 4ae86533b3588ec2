/**
 * Lists of runs, for ListRuns and the status page. A run's part of an answer is made once for each
 * of its records: most runs have ended, and are asked for again and again.
 */
import { create, toBinary, toJson } from '@bufbuild/protobuf';
import {
  ListRunsResponseSchema,
  RunSchema,
  RunView,
  type ListRunsRequest,
  type Run,
} from '@spindle/proto';
import { Encoded, SpindleError } from '@spindle/kit';
import type { Orchestrator } from '../orchestrator/orchestrator.js';
import type { RunRecord } from '../orchestrator/record.js';
import type { UnreadableRun } from '../orchestrator/records.js';
import { toRun, toSummary, unreadableRun } from './run-view.js';

const pageSize = { standard: 50, largest: 200 };
/** Rates and remaining times of a run at work move although its record stays. */
const movesMs = 1_000;

/** A run of a list: one that is driven, or one of which there is only a reason. */
type Listed = RunRecord | UnreadableRun;

/** What one run adds to an answer, and until when that is right. */
interface Part {
  encoded: Uint8Array;
  json: string;
  until: number;
}

/** JSON of all runs; the tag is another one whenever the text is. */
export interface TaggedJson {
  body: Buffer;
  tag: string;
}

export class RunList {
  readonly #orchestrator: Orchestrator;
  /** By record, which never changes: a run that moves on has another one. */
  readonly #parts = new WeakMap<Listed, Part>();
  #last: TaggedJson & { parts: readonly string[]; count: number } = {
    body: Buffer.alloc(0),
    tag: '',
    parts: [],
    count: 0,
  };

  constructor(orchestrator: Orchestrator) {
    this.#orchestrator = orchestrator;
  }

  /** A page of ListRunsResponse; UNAVAILABLE while no run can be told of. */
  page({ pageSize: asked, pageToken, view }: ListRunsRequest): Encoded {
    const all = this.#all();
    const count = Math.min(asked || pageSize.standard, pageSize.largest);
    const start = pageToken === '' ? 0 : placeAfter(all, pageToken);
    const runs = all.slice(start, start + count);
    const last = runs.at(-1);
    const nextPageToken = last !== undefined && start + count < all.length ? tokenOf(last) : '';
    const parts =
      view === RunView.FULL
        ? runs.map((run) => encode(this.#view(run, toRun)))
        : runs.map((run) => this.#part(run).encoded);
    // Messages one after the other are one message: repeated fields add up.
    const rest = create(ListRunsResponseSchema, { nextPageToken });
    return new Encoded(Buffer.concat([...parts, toBinary(ListRunsResponseSchema, rest)]));
  }

  /** Of every run what the status page's list shows. */
  json(): TaggedJson {
    const parts = this.#all().map((run) => this.#part(run).json);
    const last = this.#last;
    const same =
      parts.length === last.parts.length && parts.every((one, i) => one === last.parts[i]);
    if (!same || last.count === 0) {
      const count = last.count + 1;
      const body = Buffer.from(`{"runs":[${parts.join(',')}]}`);
      this.#last = { body, tag: `"${startedAt}-${count}"`, parts, count };
    }
    return this.#last;
  }

  #all(): Listed[] {
    this.#orchestrator.requireReady();
    const unreadable = this.#orchestrator.unreadable();
    return [
      ...this.#orchestrator.list().map((driver) => driver.record),
      ...unreadable.sort((a, b) => (a.runId < b.runId ? -1 : 1)),
    ];
  }

  #view(run: Listed, ofRecord: typeof toRun): Run {
    const directory = this.#orchestrator.directory(run.runId);
    return 'reason' in run ? unreadableRun(run, directory) : ofRecord(run, directory, Date.now());
  }

  #part(run: Listed): Part {
    const known = this.#parts.get(run);
    if (known !== undefined && performance.now() < known.until) return known;
    const moves = 'state' in run && run.state.status === 'running';
    const summary = this.#view(run, toSummary);
    const part = {
      encoded: encode(summary),
      json: JSON.stringify(summaryJson(summary)),
      until: moves ? performance.now() + movesMs : Infinity,
    };
    this.#parts.set(run, part);
    return part;
  }
}

/** Tags of another process mean nothing here. */
const startedAt = Date.now().toString(36);

function encode(run: Run): Uint8Array {
  return toBinary(ListRunsResponseSchema, create(ListRunsResponseSchema, { runs: [run] }));
}

const shown = [
  'runId',
  'status',
  'reason',
  'createdAt',
  'updatedAt',
  'bestModel',
  'etaSeconds',
  'name',
  'iteration',
  'iterations',
  'progress',
  'bestScore',
] as const satisfies (keyof Run)[];

function summaryJson(run: Run): unknown {
  const json = toJson(RunSchema, run, { alwaysEmitImplicit: true }) as Record<string, unknown>;
  return Object.fromEntries(shown.map((key) => [key, json[key]]));
}

/**
 * Names the last run of a page by its place in the order, so that the next page begins behind it
 * whatever has come or gone meanwhile.
 */
function tokenOf(run: Listed): string {
  return 'state' in run ? `${run.state.createdAt}/${run.runId}` : `/${run.runId}`;
}

function placeAfter(all: readonly Listed[], token: string): number {
  const [, created, id] = /^(\d*)\/(.+)$/.exec(token) ?? [];
  if (created === undefined || id === undefined)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `page_token: expected the token of a page before, got "${token}".`,
    );
  const place = all.findIndex((run) => {
    if (!('state' in run)) return created !== '' || run.runId > id;
    if (created === '') return false;
    const { createdAt } = run.state;
    return createdAt < Number(created) || (createdAt === Number(created) && run.runId < id);
  });
  return place < 0 ? all.length : place;
}
