import { dirname, posix } from 'node:path';
import ts from 'typescript';
import { isTest, type SourceFile, type Violation } from './sources.js';

/** A workspace as its package.json describes it. */
export interface Workspace {
  folder: string;
  name: string;
  /** Keys of `exports`: "." and subpaths. */
  exports: readonly string[];
  dependencies: readonly string[];
}

/** Below services/ for their neighbours, and services to nobody. */
const libraries = new Set(['services/kit', 'services/mesh', 'services/data', 'services/models']);

/** Who may not import the engine, nor what stands on it: they run where no engine is. */
const withoutEngine = new Set([
  'gateway',
  'services/evaluator',
  'services/data',
  'services/kit',
  'services/mesh',
]);
const engine = new Set(['native-cuda', 'services/models']);

/** Folders of services/models: each imports itself and those before it. */
const modelFolders = [
  'files',
  'text',
  'pipeline',
  'judges',
  'released',
  'convert',
  'inspect',
  'cli',
];

/** Outside main.ts only this file may look at the environment: PATH is what it is about. */
const environmentReaders = new Set(['services/mesh/src/nats/find.ts']);

interface Import {
  file: string;
  specifier: string;
  from: Workspace | undefined;
}

export function checkTypeScript(
  files: readonly SourceFile[],
  workspaces: readonly Workspace[],
): Violation[] {
  return files.flatMap((file) => {
    const from = workspaces.find(({ folder }) => file.path.startsWith(`${folder}/`));
    const imports = ts
      .preProcessFile(file.text, true, true)
      .importedFiles.map(({ fileName }) => ({ file: file.path, specifier: fileName, from }));
    return [...imports.flatMap((edge) => checkImport(edge, workspaces)), ...checkEnvironment(file)];
  });
}

function checkImport(edge: Import, workspaces: readonly Workspace[]): Violation[] {
  const { file, specifier, from } = edge;
  const broken = (rule: string): Violation[] => [{ edge: `${file} -> ${specifier}`, rule }];
  if (specifier.startsWith('.')) return checkRelative(edge, broken);
  const target = workspaces.find(
    ({ name }) => specifier === name || specifier.startsWith(`${name}/`),
  );
  // A library's own domain is as pure as ours, and the contracts are plain data.
  const pure = target && (specifier === `${target.name}/domain` || target.folder === 'proto');
  if (isDomain(file) && !pure) return broken('domain/ imports only domain/');
  if (target) {
    if (target === from) return broken('a package does not import itself by name');
    if (isService(from) && isService(target))
      return broken('a service never imports another service');
    if (from && withoutEngine.has(from.folder) && engine.has(target.folder) && !isTest(file))
      return broken(`${from.folder} never imports the engine`);
    if (from?.folder === 'services/kit' && !isTest(file))
      return broken('services/kit knows no other package: nothing of SPIN, nor its contracts');
    if (from?.folder === 'native-cuda') return broken('native-cuda imports no other package');
    if (!target.exports.includes(`.${specifier.slice(target.name.length)}`))
      return broken("nobody reaches past a package's exports");
  }
  if (target && specifier.endsWith('/testing') && !isTest(file))
    return broken('only tests import helpers for tests');
  if (packageOf(specifier) === 'nats' && from?.folder !== 'services/mesh')
    return broken('only services/mesh imports nats');
  if (
    from &&
    !isTest(file) &&
    !isBuiltin(specifier) &&
    !from.dependencies.includes(packageOf(specifier))
  ) {
    return broken(`${from.folder}/package.json does not list the dependency`);
  }
  return [];
}

function checkRelative(
  { file, specifier, from }: Import,
  broken: (rule: string) => Violation[],
): Violation[] {
  const target = posix.join(posix.dirname(file), specifier);
  // Tests that cross packages may share what lies beside them, nothing else.
  const home = from?.folder ?? file.split('/')[0];
  if (home !== undefined && !target.startsWith(`${home}/`))
    return broken("nobody reaches past a package's exports");
  if (isDomain(file) && !isDomain(`${dirname(target)}/`))
    return broken('domain/ imports only domain/');
  const [own, other] = [modelFolder(file), modelFolder(target)];
  if (own !== -1 && other > own && !isTest(file))
    return broken(`services/models imports down its folders: ${modelFolders.join(' <- ')}`);
  return [];
}

/** Which of services/models' folders a file lies in; -1: none. */
function modelFolder(path: string): number {
  const name = /^services\/models\/src\/([^/]+)\//.exec(path)?.[1];
  return name === undefined ? -1 : modelFolders.indexOf(name);
}

function checkEnvironment({ path, text }: SourceFile): Violation[] {
  if (isTest(path) || environmentReaders.has(path) || posix.basename(path) === 'main.ts') return [];
  return /\bprocess\.env\b|\benv\b[^;]*from 'node:process'/.test(text)
    ? [{ edge: `${path} -> process.env`, rule: 'only main.ts reads the environment' }]
    : [];
}

/** Tests of domain code may use what tests use. */
function isDomain(path: string): boolean {
  return /\/domain\//.test(path) && !isTest(path);
}

function isService(workspace: Workspace | undefined): boolean {
  return (
    workspace !== undefined &&
    workspace.folder.startsWith('services/') &&
    !libraries.has(workspace.folder)
  );
}

function isBuiltin(specifier: string): boolean {
  return specifier.startsWith('node:');
}

function packageOf(specifier: string): string {
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
}
