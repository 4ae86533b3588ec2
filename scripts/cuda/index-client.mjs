// Asks a Python package index for one wheel by its SHA-256, where there is no pip to ask (the
// index's simple API, PEP 503 and 691).
import { createHash } from 'node:crypto';
import {
  closeSync,
  createReadStream,
  existsSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { ScriptError } from '../lib/phase.mjs';

const publicIndex = 'https://pypi.org/simple';

/**
 * `key = value` under [global] or [install]/[download] of pip's configuration files, the last one
 * winning as in pip.
 */
function fromPipFiles(key, env) {
  const home = env.HOME ?? homedir();
  const files = [
    '/etc/pip.conf',
    join(home, '.pip/pip.conf'),
    join(env.XDG_CONFIG_HOME ?? join(home, '.config'), 'pip/pip.conf'),
    env.PIP_CONFIG_FILE,
  ];
  let value;
  for (const file of files) {
    if (file === undefined || file === '' || !existsSync(file) || !statSync(file).isFile())
      continue;
    let section = '';
    for (const line of readFileSync(file, 'utf8').split('\n')) {
      section = /^\s*\[(\w+)\]/.exec(line)?.[1] ?? section;
      const match = /^\s*([\w-]+)\s*[=:]\s*(\S.*?)\s*$/.exec(line);
      if (match?.[1] === key && ['global', 'download', 'install'].includes(section))
        value = match[2];
    }
  }
  return value;
}

/** The index that pip would use. */
export function indexUrl(env) {
  return (env.PIP_INDEX_URL || fromPipFiles('index-url', env) || publicIndex).replace(/\/+$/, '');
}

/** Folders of PIP_FIND_LINKS. */
export function findLinks(env) {
  const links = env.PIP_FIND_LINKS ?? fromPipFiles('find-links', env) ?? '';
  return links
    .split(/\s+/)
    .map((link) => link.replace(/^file:\/\//, ''))
    .filter((link) => link !== '' && !link.includes('://'));
}

/** user:password@ of a URL as a header: fetch refuses them in the URL. */
function request(url, headers = {}) {
  const target = new URL(url);
  if (target.username !== '') {
    const login = `${decodeURIComponent(target.username)}:${decodeURIComponent(target.password)}`;
    headers = { ...headers, authorization: `Basic ${Buffer.from(login).toString('base64')}` };
    target.username = '';
    target.password = '';
  }
  return { url: target.href, headers };
}

const hidden = (url) => url.replace(/\/\/[^/@]*@/, '//');

async function get(url, headers) {
  const { url: target, headers: all } = request(url, headers);
  try {
    return await fetch(target, { headers: all, signal: AbortSignal.timeout(600_000) });
  } catch (error) {
    throw new ScriptError(
      `the package index cannot be reached: ${hidden(url)}: ` +
        `${error.cause?.message ?? error.message}`,
      3,
    );
  }
}

/**
 * The address of the file with that SHA-256, from the JSON or the HTML form of a project's page.
 */
export function linkOf(page, contentType, pageUrl, entry) {
  if (contentType.includes('json')) {
    const file = JSON.parse(page).files.find(({ hashes }) => hashes?.sha256 === entry.sha256);
    return file && new URL(file.url, pageUrl).href;
  }
  const found = [...page.matchAll(/href="([^"]+)"/g)]
    .map(([, href]) => href.replaceAll('&amp;', '&'))
    .find((href) => href.endsWith(`#sha256=${entry.sha256}`));
  return found && new URL(found.split('#')[0], pageUrl).href;
}

async function sha256Of(path) {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk);
  return hash.digest('hex');
}

/** Continues `part` where an earlier try stopped, if the server can. */
async function download(url, part) {
  const have = existsSync(part) ? statSync(part).size : 0;
  const response = await get(url, have > 0 ? { range: `bytes=${have}-` } : {});
  if (response.status === 416) return; // it is all there; the digest decides
  if (!response.ok)
    throw new ScriptError(`${hidden(url)}: the package index answered ${response.status}`, 3);
  // What has arrived is in the file before the next piece can fail.
  const file = openSync(part, response.status === 206 ? 'a' : 'w');
  try {
    for await (const chunk of response.body) writeSync(file, chunk);
  } finally {
    closeSync(file);
  }
}

/**
 * Fetches a wheel into `folder` and returns its path; a broken transfer is taken up again, a wrong
 * digest is refused.
 */
export async function fetchWheel(index, entry, folder, { tries = 4, pauseMs = 1000 } = {}) {
  const pageUrl = `${index}/${entry.name}/`;
  const page = await get(pageUrl, {
    accept: 'application/vnd.pypi.simple.v1+json, text/html;q=0.5',
  });
  if (!page.ok)
    throw new ScriptError(
      `the package index has no ${entry.name}: ${hidden(pageUrl)} answered ${page.status}`,
      3,
    );
  const url = linkOf(await page.text(), page.headers.get('content-type') ?? '', page.url, entry);
  if (url === undefined)
    throw new ScriptError(
      `the package index has no file of ${entry.name} ${entry.version} with SHA-256 ` +
        `${entry.sha256}`,
      3,
    );
  const path = join(folder, decodeURIComponent(basename(new URL(url).pathname)));
  const part = `${path}.part`;
  for (let attempt = 1; ; attempt++) {
    try {
      await download(url, part);
      break;
    } catch (error) {
      if (attempt >= tries)
        throw error instanceof ScriptError
          ? error
          : new ScriptError(`${hidden(url)}: the transfer broke off: ${error.message}`, 3);
      await pause(pauseMs * attempt);
    }
  }
  const got = await sha256Of(part);
  if (got !== entry.sha256) {
    rmSync(part);
    throw new ScriptError(`${hidden(url)}: expected SHA-256 ${entry.sha256}, got ${got}`);
  }
  renameSync(part, path);
  return path;
}
