// Clients of ListRuns or GetRun in a process of their own, each with a connection of its own: calls
// as fast as answers come. Prints one JSON line.
import { parseArgs } from 'node:util';
import grpc from '@grpc/grpc-js';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { usage } from './mesh.mjs';
import * as proto from '@spindle/proto';

const { values } = parseArgs({
  options: {
    address: { type: 'string' },
    clients: { type: 'string', default: '64' },
    seconds: { type: 'string', default: '10' },
    'page-size': { type: 'string', default: '0' },
  },
});
const connections = Array.from(
  { length: Number(values.clients) },
  () =>
    new grpc.Client(values.address, grpc.credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
    }),
);
let bytes = 0;
const request = { pageSize: Number(values['page-size']) };

function call(connection) {
  return new Promise((resolve, reject) =>
    connection.makeUnaryRequest(
      '/spindle.v1.RunService/ListRuns',
      (message) => Buffer.from(toBinary(proto.ListRunsRequestSchema, message)),
      (answer) => {
        bytes += answer.byteLength;
        return fromBinary(proto.ListRunsResponseSchema, answer);
      },
      create(proto.ListRunsRequestSchema, request),
      (error, response) => (error ? reject(error) : resolve(response)),
    ),
  );
}

await Promise.all(connections.map(call));
bytes = 0;
const times = [];
const began = performance.now();
const before = usage(process.pid).cpu;
const end = began + 1_000 * Number(values.seconds);
await Promise.all(
  connections.map(async (connection) => {
    while (performance.now() < end) {
      const sent = performance.now();
      await call(connection);
      times.push(performance.now() - sent);
    }
  }),
);
const seconds = (performance.now() - began) / 1_000;
times.sort((a, b) => a - b);
const at = (share) => times[Math.min(times.length - 1, Math.floor(share * times.length))];
const figures = {
  calls: times.length,
  perSecond: times.length / seconds,
  p50: at(0.5),
  p99: at(0.99),
  bytesPerCall: bytes / times.length,
  clientCpu: usage(process.pid).cpu - before,
};
process.stdout.write(`${JSON.stringify(figures)}\n`);
for (const connection of connections) connection.close();
