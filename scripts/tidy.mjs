// `npm run tidy`: clang-tidy over the engine's and the addon's sources, with the checks of
// .clang-tidy, as many files at a time as there are cores. `npm run tidy -- autograd loader` takes
// the files whose path has one of the words. Nothing is compiled; a configured build/tidy says how
// each file would be.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { configureForTidy } from './build-native.mjs';
import { main, phase, root, ScriptError } from './lib/phase.mjs';
import { findCommand } from './lib/system.mjs';

const folders = ['engine', 'addon'].map((folder) => join(root, 'native-cuda', folder, '/'));

/** Sources of the engine and of the addon in a folder's compile_commands.json, each once. */
function sourcesOf(buildDir, words) {
  const commands = JSON.parse(readFileSync(join(buildDir, 'compile_commands.json'), 'utf8'));
  const files = commands.map(({ directory, file }) => resolve(directory, file));
  return [...new Set(files)]
    .filter((file) => folders.some((folder) => file.startsWith(folder)))
    .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
    .sort();
}

/** Resolves to what clang-tidy prints about a file, and whether it may be called good. */
function inspect(clangTidy, buildDir, file) {
  return new Promise((done, fail) => {
    // The commands may be another compiler's, with warnings that clang does not know.
    const args = ['-p', buildDir, '--quiet', '--extra-arg=-Wno-unknown-warning-option', file];
    const child = spawn(clangTidy, args, { cwd: root });
    const output = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr']) {
      child[name].setEncoding('utf8').on('data', (text) => {
        output[name] += text;
      });
    }
    child.once('error', fail);
    child.once('close', (code) => {
      // On stderr it counts the warnings of system headers, unless it failed.
      const failed = code !== 0 && output.stdout === '';
      done({
        file,
        ok: code === 0 && output.stdout === '',
        text: output[failed ? 'stderr' : 'stdout'],
      });
    });
  });
}

/** Findings in headers come with every file that includes them: each once. */
function findingsOf(results) {
  const findings = new Set();
  for (const { file, text } of results.filter((result) => !result.ok)) {
    const parts = text
      .split(/^(?=\S+:\d+:\d+: (?:warning|error): )/m)
      .filter((part) => part.trim());
    if (parts.length === 0) parts.push(`${relative(root, file)}: clang-tidy failed\n`);
    for (const part of parts) findings.add(part.replaceAll(join(root, '/'), '').trimEnd());
  }
  return [...findings];
}

async function tidy(words) {
  const clangTidy = findCommand(['clang-tidy']);
  if (clangTidy === undefined) {
    throw new ScriptError('clang-tidy is missing: run `sudo apt-get install -y clang-tidy`', 2);
  }
  const buildDir = configureForTidy();
  const files = sourcesOf(buildDir, words);
  if (files.length === 0)
    throw new ScriptError(`no source has ${words.join(' or ')} in its path`, 2);
  const results = [];
  const waiting = [...files];
  const work = async () => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift())
      results.push(await inspect(clangTidy, buildDir, file));
  };
  await phase('clang-tidy', () =>
    Promise.all(Array.from({ length: availableParallelism() }, work)),
  );
  const findings = findingsOf(results);
  for (const finding of findings) console.log(finding);
  console.log(`${files.length} files, ${findings.length} findings`);
  return findings.length === 0 ? 0 : 1;
}

await main(async () => {
  const { positionals } = parseArgs({ allowPositionals: true });
  return tidy(positionals);
});
