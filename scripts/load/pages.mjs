// Open status pages without a browser: each asks for the list every five seconds, with the tag of
// what it has, and reads one run's event stream. Ends after `--seconds`.
import { Agent, get } from 'node:http';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    port: { type: 'string' },
    pages: { type: 'string', default: '50' },
    run: { type: 'string' },
    seconds: { type: 'string', default: '20' },
  },
});
const everyMs = 5_000;
const answers = {};
let bytes = 0;

function fetchList(agent, tag) {
  return new Promise((resolve) => {
    const headers = tag === undefined ? {} : { 'If-None-Match': tag };
    get({ host: '127.0.0.1', port: values.port, path: '/api/runs', agent, headers }, (response) => {
      answers[response.statusCode] = (answers[response.statusCode] ?? 0) + 1;
      response.on('data', (part) => (bytes += part.length));
      response.on('end', () => resolve(response.headers.etag ?? tag));
    }).on('error', () => {
      // The server closed an idle connection just then; a browser asks again by itself.
      answers.reset = (answers.reset ?? 0) + 1;
      resolve(tag);
    });
  });
}

const stops = Array.from({ length: Number(values.pages) }, (_, i) => {
  const agent = new Agent({ keepAlive: true });
  let tag;
  let timer;
  const poll = async () => (tag = await fetchList(agent, tag));
  // Pages are opened at different moments.
  const start = setTimeout(
    () => {
      void poll();
      timer = setInterval(() => void poll(), everyMs);
    },
    (i * everyMs) / Number(values.pages),
  );
  const events = get(
    { host: '127.0.0.1', port: values.port, path: `/api/runs/${values.run}/events`, agent: false },
    (response) => response.on('data', (part) => (bytes += part.length)),
  );
  events.on('error', () => undefined);
  return () => {
    clearTimeout(start);
    clearInterval(timer);
    events.destroy();
    agent.destroy();
  };
});
await new Promise((resolve) => setTimeout(resolve, 1_000 * Number(values.seconds)));
for (const stop of stops) stop();
process.stdout.write(`${JSON.stringify({ answers, bytes })}\n`);
