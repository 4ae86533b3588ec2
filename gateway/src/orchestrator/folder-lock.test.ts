import { mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { lockFolder, type FolderLock } from './folder-lock.js';
import { ownIdentity } from './process-identity.js';

let root: string;
let held: FolderLock[];
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'spindle-lock-'));
  held = [];
});
afterEach(async () => {
  for (const lock of held) await lock.release();
  rmSync(root, { recursive: true });
});

const quick = { refreshMs: 20, staleMs: 300 };
const take = async (): Promise<FolderLock> => {
  const lock = await lockFolder(root, 'gateway', quick);
  held.push(lock);
  return lock;
};
const lockNames = (): string[] => readdirSync(root).filter((name) => name.includes('.lock'));

/** What another machine's process left: its id means nothing here. */
async function leave(number: number, fields: object = {}): Promise<string> {
  const file = join(root, `gateway.lock.${number}`);
  const holder = { ...(await ownIdentity()), place: 'another boot', host: 'other', id: 'x' };
  writeFileSync(file, JSON.stringify({ ...holder, since: 'then', beat: 1, ...fields }));
  return file;
}

it('is held by one, and free again at once when that one lets go', async () => {
  const first = await take();
  await expect(take()).rejects.toThrow(
    /gateway\.lock\.1: this artifacts folder is in use by another gateway \(process \d+ on /,
  );
  await first.release();
  const second = await take();
  await second.assertHeld();
  expect(lockNames()).toEqual(['gateway.lock.2']);
});

it('takes over at once from a process that is gone', async () => {
  await leave(4, { ...(await ownIdentity()), pid: 2 ** 22 + 1 });
  await (await take()).assertHeld();
  expect(lockNames()).toEqual(['gateway.lock.5']);
});

it('believes no clock but its own: a lock of tomorrow is taken when its holder says nothing', async () => {
  const file = await leave(1);
  const tomorrow = new Date(Date.now() + 86_400_000);
  utimesSync(file, tomorrow, tomorrow);
  await (await take()).assertHeld();
});

it('believes no clock but its own: a lock of yesterday is held while its holder speaks', async () => {
  const yesterday = new Date(Date.now() - 86_400_000);
  let beat = 1;
  const file = await leave(1);
  const speaking = setInterval(() => {
    writeFileSync(file, readFileSync(file, 'utf8').replace(/"beat":\d+/, `"beat":${++beat}`));
    utimesSync(file, yesterday, yesterday);
  }, 50);
  await expect(take()).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
  clearInterval(speaking);
});

it('watches a holder of its own host name and process id that is in another container', async () => {
  const own = await ownIdentity();
  const file = await leave(1, { ...own, place: own.place.replace(/.$/, '?') });
  let beat = 1;
  const speaking = setInterval(
    () => writeFileSync(file, readFileSync(file, 'utf8').replace(/"beat":\d+/, `"beat":${++beat}`)),
    50,
  );
  await expect(take()).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
  clearInterval(speaking);
});

it('ends for a holder that another one took for gone, whose lock stays', async () => {
  const first = await take();
  const lost = once(first.lost, 'abort');
  await leave(2, { host: 'other' });
  await lost;
  await expect(first.assertHeld()).rejects.toMatchObject({ code: 'ABORTED' });
  await first.release();
  expect(readFileSync(join(root, 'gateway.lock.2'), 'utf8')).toContain('"host":"other"');
});

it('looks before a write when its process was stopped for a while', async () => {
  const lock = await lockFolder(root, 'gateway', { refreshMs: 3_600_000 });
  held.push(lock);
  await lock.assertHeld();
  await leave(2);
  const { now } = performance;
  try {
    const later = now.call(performance) + 4 * 3_600_000;
    performance.now = () => later;
    await expect(lock.assertHeld()).rejects.toMatchObject({ code: 'ABORTED' });
  } finally {
    performance.now = now;
  }
});

it('ends for a holder whose folder was emptied', async () => {
  const lock = await take();
  const lost = once(lock.lost, 'abort');
  rmSync(join(root, 'gateway.lock.1'));
  await lost;
});

it('watches what older versions left, which only touched their file', async () => {
  const file = join(root, 'gateway.lock');
  writeFileSync(file, JSON.stringify({ pid: 1, host: 'other', started: '1', since: 'then' }));
  const touching = setInterval(() => utimesSync(file, new Date(), new Date()), 50);
  await expect(take()).rejects.toThrow('(process 1 on other, since then)');
  clearInterval(touching);
  await take();
  expect(lockNames()).toEqual(['gateway.lock.1']);
});

it('takes a damaged lock when nobody writes it', async () => {
  writeFileSync(join(root, 'gateway.lock.7'), '{"pid":');
  await take();
  expect(lockNames()).toEqual(['gateway.lock.8']);
});
