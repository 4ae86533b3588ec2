import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { SpindleError } from './errors.js';
import { delay, Lifecycle, linkedAbort } from './lifecycle.js';

test('shutdown aborts the signal first, then undoes in reverse order', async () => {
  const lifecycle = new Lifecycle();
  const order: string[] = [];
  lifecycle.signal.addEventListener('abort', () => order.push('signal'));
  lifecycle.defer('first', () => void order.push('first'));
  lifecycle.defer('second', async () => {
    await delay(1);
    order.push('second');
  });
  await lifecycle.shutdown('done');
  expect(order).toEqual(['signal', 'second', 'first']);
  expect(lifecycle.signal.reason).toMatchObject({
    code: 'CANCELLED',
    message: 'shutting down: done',
  });
});

test('shutting down twice runs every step once, and both wait for the end', async () => {
  const lifecycle = new Lifecycle();
  let runs = 0;
  lifecycle.defer('step', async () => {
    await delay(5);
    runs++;
  });
  await Promise.all([lifecycle.shutdown('a'), lifecycle.shutdown('b')]);
  expect(runs).toBe(1);
});

test('a step that fails keeps no other from running and is named', async () => {
  const lifecycle = new Lifecycle();
  let reached = false;
  lifecycle.defer('store', () => {
    reached = true;
  });
  lifecycle.defer('bus', () => {
    throw new Error('gone');
  });
  await expect(lifecycle.shutdown('test')).rejects.toThrow('shutdown (test): bus: gone');
  expect(reached).toBe(true);
});

test('SIGTERM shuts a process down in order and it ends by itself', async () => {
  const source = `
    import { Lifecycle } from ${JSON.stringify(new URL('./lifecycle.ts', import.meta.url).href)};
    const lifecycle = new Lifecycle();
    const timer = setInterval(() => undefined, 1000);
    lifecycle.defer('timer', () => { clearInterval(timer); console.log('stopped'); });
    lifecycle.installSignalHandlers();
    console.log('ready');`;
  expect(await runUntil('ready', source)).toEqual({ code: 0, output: 'ready\nstopped\n' });
});

test('a linked signal follows each of its sources and can be let go', () => {
  const a = new AbortController();
  const b = new AbortController();
  const linked = linkedAbort(a.signal, undefined, b.signal);
  b.abort(new SpindleError('ABORTED', 'b'));
  expect(linked.signal.reason).toMatchObject({ message: 'b' });
  const loose = linkedAbort(a.signal);
  loose.cleanup();
  a.abort();
  expect(loose.signal.aborted).toBe(false);
  expect(linkedAbort(a.signal).signal.aborted).toBe(true);
});

test('a delay ends early when its signal aborts', async () => {
  const controller = new AbortController();
  const waiting = delay(60_000, controller.signal);
  controller.abort(new SpindleError('DEADLINE_EXCEEDED', 'late'));
  await expect(waiting).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
  await expect(delay(1, AbortSignal.abort())).rejects.toMatchObject({ code: 'CANCELLED' });
});

test('a step that waits for ever is left behind, and the process ends though a timer is left', async () => {
  const source = `
    import { Lifecycle } from ${JSON.stringify(new URL('./lifecycle.ts', import.meta.url).href)};
    const lifecycle = new Lifecycle();
    lifecycle.installSignalHandlers();
    lifecycle.defer('first', () => process.stdout.write('undone\\n'));
    lifecycle.defer('bus', () => new Promise(() => undefined), 50);
    setInterval(() => undefined, 60_000);
    process.stdout.write('ready\\n');
  `;
  expect(await runUntil('ready', source)).toEqual({ code: 0, output: 'ready\nundone\n' });
});

test('a failure that nobody waits for ends a service with one sentence', async () => {
  const source = `
    import { runService } from ${JSON.stringify(new URL('./service.ts', import.meta.url).href)};
    await runService('spindle sampler', async () => {
      setInterval(() => undefined, 60_000);
      void Promise.reject(new TypeError('the length is NaN'));
    });
  `;
  expect(await runUntil('the length', source)).toEqual({
    code: 1,
    output: 'spindle sampler: unexpected failure: the length is NaN\n',
  });
});

/** SIGTERM once it has said `word`; what it said on both streams, and how it ended. */
async function runUntil(
  word: string,
  source: string,
): Promise<{ code: number | null; output: string }> {
  const flags = ['--conditions=@spindle/source', '--import', 'tsx', '--input-type=module'];
  const child = spawn(process.execPath, [...flags, '-e', source], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const exited = once(child, 'close') as Promise<[number | null]>;
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  await expect.poll(() => output, { timeout: 20_000 }).toContain(word);
  child.kill('SIGTERM');
  const [code] = await exited;
  return { code, output };
}
