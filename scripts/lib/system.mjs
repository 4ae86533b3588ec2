// The system's own programs: which are missing, and how to get them on Debian and Ubuntu.
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { ScriptError, root, runQuietly } from './phase.mjs';

const minimum = [20, 19];

/** A nats-server that somebody put there by hand; package installations are found on PATH. */
export const localBin = join(root, '.cache', 'bin');

/**
 * What a program needs to be there, and the package that brings it. Any one of `commands` will do.
 */
const needs = [
  { commands: [process.env.CXX, 'c++', 'g++', 'clang++'], package: 'g++' },
  { commands: ['cmake'], package: 'cmake' },
  { commands: ['ninja', 'make'], package: 'ninja-build' },
  { commands: ['nats-server'], package: 'nats-server' },
];
const browser = {
  commands: [process.env.SPINDLE_CHROMIUM, 'chromium', 'chromium-browser', 'google-chrome'],
  package: 'chromium',
};

/** What is needed of the system, by the packages' names in Debian. */
export const systemPackages = () => [
  ...needs.map((need) => ({ name: need.package, tests: false })),
  { name: browser.package, tests: true },
];

export function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < minimum[0] || (major === minimum[0] && minor < minimum[1])) {
    throw new ScriptError(
      `Node ${minimum.join('.')} or newer is needed, this is ${process.versions.node}: ` +
        'install it from https://nodejs.org',
      2,
    );
  }
}

function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

export function findCommand(commands) {
  // Debian puts servers into sbin, which is not on every user's PATH.
  const folders = [
    localBin,
    ...(process.env.PATH ?? '').split(delimiter),
    '/usr/local/sbin',
    '/usr/sbin',
  ].filter((folder) => folder !== '');
  for (const command of commands) {
    if (command === undefined || command === '') continue;
    if (command.includes('/')) {
      if (isExecutable(command)) return command;
      continue;
    }
    const found = folders.map((folder) => join(folder, command)).find(isExecutable);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** Packages to install; the browser is only for the tests. */
export function missingPackages({ tests = false } = {}) {
  return [...needs, ...(tests ? [browser] : [])]
    .filter((need) => findCommand(need.commands) === undefined)
    .map((need) => need.package);
}

/**
 * root needs no sudo; others need one that asks no questions, since nobody may be there to answer.
 */
function privilege() {
  if (process.getuid?.() === 0) return [];
  const asks = spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status !== 0;
  return asks ? undefined : ['sudo', '-n'];
}

/** Returns false when there was nothing to do. */
export function installMissingPackages(options) {
  const missing = missingPackages(options);
  if (missing.length === 0) return false;
  const command =
    'sudo apt-get update && sudo apt-get install -y --no-install-recommends ' +
    `${missing.join(' ')}`;
  const prefix = privilege();
  if (prefix === undefined || findCommand(['apt-get']) === undefined) {
    const how =
      findCommand(['apt-get']) === undefined
        ? 'install them with your package manager (on Debian and Ubuntu'
        : 'run (';
    throw new ScriptError(
      `${missing.join(', ')} missing: ${how}${how === 'run (' ? 'as somebody who may' : ''}): ` +
        `${command}`,
      2,
    );
  }
  console.log(`installing ${missing.join(', ')}`);
  const apt = (...args) => {
    const [file, ...rest] = [
      ...prefix,
      'env',
      'DEBIAN_FRONTEND=noninteractive',
      'apt-get',
      ...args,
    ];
    runQuietly(file, rest);
  };
  withoutServices(prefix, () => {
    apt('update');
    apt('install', '-y', '--no-install-recommends', ...missing);
  });
  const still = missingPackages(options);
  if (still.length > 0)
    throw new ScriptError(
      `${still.join(', ')} still missing after installation: run ${command}`,
      2,
    );
  return true;
}

/**
 * Debian asks policy-rc.d before a package starts its service: ours are started by the mesh, on
 * ports of its own.
 */
function withoutServices(prefix, work) {
  const policy = '/usr/sbin/policy-rc.d';
  if (existsSync(policy)) return work();
  const script = '#!/bin/sh\nexit 101\n';
  if (prefix.length === 0) writeFileSync(policy, script, { mode: 0o755 });
  else
    runQuietly(prefix[0], [
      ...prefix.slice(1),
      'sh',
      '-c',
      `printf '${script.replaceAll('\n', '\\n')}' > ${policy} && chmod 755 ${policy}`,
    ]);
  try {
    return work();
  } finally {
    if (prefix.length === 0) rmSync(policy, { force: true });
    else runQuietly(prefix[0], [...prefix.slice(1), 'rm', '-f', policy]);
  }
}
