/** Which service may use which subject of NATS: the one place that says so. */
import {
  buckets,
  consumers,
  jobKinds,
  streams,
  streamSubjects,
  type BucketName,
  type JobKind,
} from '@spindle/proto';

/** The services that talk to NATS; each is a user of that name. */
export const natsServices = ['gateway', 'sampler', 'scorer', 'trainer'] as const;
export type NatsService = (typeof natsServices)[number];

/** Patterns of subjects, as nats-server's allow lists have them. */
export interface SubjectRules {
  publish: readonly string[];
  subscribe: readonly string[];
}

const api = '$JS.API';
const bucketStream = (bucket: BucketName): string => `KV_${buckets[bucket]}`;
/** What begins every answer's subject: one service hears no answers of another. */
export const inboxPrefix = (service: NatsService): string => `_INBOX.${service}`;

/** What each service may do; what is not here, nobody may. */
export function subjectRules(service: NatsService): SubjectRules {
  // What a client of key-value buckets asks first.
  return {
    publish: [`${api}.INFO`, ...publishRules(service)],
    subscribe: [`${inboxPrefix(service)}.>`],
  };
}

function publishRules(service: NatsService): string[] {
  switch (service) {
    case 'gateway':
      return gateway();
    case 'sampler':
      return [...worker(['encode', 'sample']), ...heartbeat(service)];
    case 'scorer':
      return [...worker(['score']), ...heartbeat(service)];
    case 'trainer':
      return [...heartbeat(service), ...lease('trainer.>')];
  }
}

/** Makes streams, consumers and buckets, fills the queue, reads all but the jobs, and purges. */
function gateway(): string[] {
  const read = [streams.events, streams.dead, ...bucketNames.map(bucketStream)];
  return [
    ...[streams.jobs, ...read].flatMap((stream) => [
      ...['INFO', 'CREATE', 'UPDATE'].map((verb) => `${api}.STREAM.${verb}.${stream}`),
      ...['INFO', 'DELETE', 'CREATE'].map((verb) => `${api}.CONSUMER.${verb}.${stream}.>`),
      `${api}.CONSUMER.CREATE.${stream}`,
      `${api}.CONSUMER.DURABLE.CREATE.${stream}.*`,
    ]),
    ...read.flatMap((stream) => [
      `${api}.CONSUMER.MSG.NEXT.${stream}.*`,
      `${api}.STREAM.MSG.GET.${stream}`,
      `${api}.DIRECT.GET.${stream}`,
      `${api}.DIRECT.GET.${stream}.>`,
      `$JS.ACK.${stream}.>`,
    ]),
    '$JS.FC.>',
    ...Object.values(streams).map((stream) => `${api}.STREAM.PURGE.${stream}`),
    ...jobKinds.map((kind) => `spindle.jobs.${kind}.*`),
    streamSubjects.events,
    `$KV.${buckets.runs}.>`,
    ...lease('gateway'),
  ];
}

const bucketNames = Object.keys(buckets) as BucketName[];

/** Takes jobs of its kinds, hands them back or gives them up, and tells of them. */
function worker(kinds: readonly JobKind[]): string[] {
  return [
    ...kinds.flatMap((kind) => [
      `${api}.CONSUMER.INFO.${streams.jobs}.${consumers[kind]}`,
      `${api}.CONSUMER.MSG.NEXT.${streams.jobs}.${consumers[kind]}`,
      `$JS.ACK.${streams.jobs}.${consumers[kind]}.>`,
      `spindle.jobs.${kind}.*`,
      `spindle.dead.${kind}.*`,
    ]),
    'spindle.events.*.jobDone',
    'spindle.events.*.jobFailed',
  ];
}

function heartbeat(service: NatsService): string[] {
  return [`${api}.STREAM.INFO.${bucketStream('workers')}`, `$KV.${buckets.workers}.${service}.*`];
}

/** Takes and holds leases whose keys match. */
function lease(keys: string): string[] {
  const stream = bucketStream('leases');
  const subject = `$KV.${buckets.leases}.${keys}`;
  return [
    `${api}.STREAM.INFO.${stream}`,
    `${api}.DIRECT.GET.${stream}.${subject}`,
    `${api}.STREAM.MSG.GET.${stream}`,
    subject,
  ];
}

/**
 * The part of nats-server's config that makes each service a user with its rules; each user's
 * password is what `passwordOf` writes there, such as a variable of the server's environment.
 */
export function usersConfig(passwordOf: (service: NatsService) => string): string {
  const list = (patterns: readonly string[]): string[] => [
    ...[...new Set(patterns)].map((pattern) => `          ${JSON.stringify(pattern)}`),
  ];
  const users = natsServices.flatMap((service) => {
    const { publish, subscribe } = subjectRules(service);
    return [
      '    {',
      `      user: ${service}`,
      `      password: ${passwordOf(service)}`,
      '      permissions {',
      '        publish { allow: [',
      ...list(publish),
      '        ] }',
      '        subscribe { allow: [',
      ...list(subscribe),
      '        ] }',
      '      }',
      '    }',
    ];
  });
  return ['authorization {', '  users: [', ...users, '  ]', '}', ''].join('\n');
}
