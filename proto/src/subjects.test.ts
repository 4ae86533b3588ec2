import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { JobSchema } from '../gen/spindle/v1/jobs_pb.js';
import {
  deadSubject,
  eventFilter,
  eventSubject,
  jobFilter,
  jobKind,
  jobKinds,
  jobSubject,
  runDeadFilter,
  runJobsFilter,
  streamSubjects,
} from './subjects.js';

/** NATS' own rule: "*" is one token, ">" the rest. */
function matches(filter: string, subject: string): boolean {
  const pattern = filter.replaceAll('.', '\\.').replaceAll('*', '[^.]+').replace('>', '.+');
  return new RegExp(`^${pattern}$`).test(subject);
}

test('every subject is captured by its stream and by its filters only', () => {
  for (const kind of jobKinds) {
    const job = jobSubject(kind, 'r1');
    expect(matches(streamSubjects.jobs, job)).toBe(true);
    expect(jobKinds.filter((other) => matches(jobFilter(other), job))).toEqual([kind]);
    expect(matches(runJobsFilter('r1'), job)).toBe(true);
    expect(matches(runJobsFilter('r10'), job)).toBe(false);
    expect(matches(streamSubjects.dead, deadSubject(kind, 'r1'))).toBe(true);
    expect(matches(runDeadFilter('r1'), deadSubject(kind, 'r1'))).toBe(true);
  }
  const event = eventSubject('r1', 'trainStep');
  expect(event).toBe('spindle.events.r1.trainStep');
  expect(matches(eventFilter('r1'), event)).toBe(true);
  expect(matches(eventFilter('r2'), event)).toBe(false);
  expect(matches(eventFilter('*'), event)).toBe(true);
});

test.each(['', 'a.b', 'a b', '*', '>', 'a/b'])(
  'the run id "%s" cannot change a subject\'s meaning',
  (runId) => {
    expect(() => jobSubject('sample', runId)).toThrow(TypeError);
    expect(() => eventSubject(runId, 'warning')).toThrow(TypeError);
    expect(() => runJobsFilter(runId)).toThrow(TypeError);
  },
);

test("a job's kind is what its work is", () => {
  expect(jobKind(create(JobSchema, { key: 'k', work: { case: 'score', value: {} } }))).toBe(
    'score',
  );
  expect(() => jobKind(create(JobSchema, { key: 'k' }))).toThrow(
    /job "k": work: expected one of encode, sample, score, got nothing/,
  );
});
