// Clients that come, read a first message and go: half of them watch a run over gRPC, half read its
// event stream. Each has a connection of its own.
import { get } from 'node:http';
import { parseArgs } from 'node:util';
import grpc from '@grpc/grpc-js';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import * as proto from '@spindle/proto';

const { values } = parseArgs({
  options: {
    address: { type: 'string' },
    port: { type: 'string' },
    run: { type: 'string' },
    visitors: { type: 'string', default: '2000' },
    together: { type: 'string', default: '50' },
  },
});

function watch() {
  return new Promise((resolve, reject) => {
    const connection = new grpc.Client(values.address, grpc.credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
    });
    const call = connection.makeServerStreamRequest(
      '/spindle.v1.RunService/WatchRun',
      (message) => Buffer.from(toBinary(proto.WatchRunRequestSchema, message)),
      (bytes) => fromBinary(proto.WatchRunResponseSchema, bytes),
      create(proto.WatchRunRequestSchema, { runId: values.run }),
    );
    call.once('data', () => call.cancel());
    call.once('error', (error) => {
      connection.close();
      if (error.code === grpc.status.CANCELLED) resolve();
      else reject(error);
    });
  });
}

function read() {
  return new Promise((resolve, reject) => {
    const path = `/api/runs/${values.run}/events`;
    const sent = get({ host: '127.0.0.1', port: values.port, path, agent: false }, (response) => {
      response.once('data', () => {
        sent.destroy();
        resolve();
      });
      response.on('error', () => undefined);
    });
    sent.on('error', reject);
  });
}

let left = Number(values.visitors);
await Promise.all(
  Array.from({ length: Number(values.together) }, async () => {
    while (left > 0) await (left-- % 2 === 0 ? watch() : read());
  }),
);
process.stdout.write('{}\n');
