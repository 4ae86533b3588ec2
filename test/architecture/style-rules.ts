import { basename, dirname } from 'node:path';
import { isTest, type SourceFile, type Violation } from './sources.js';
import type { Workspace } from './typescript-rules.js';

/** Long files are where concepts hide in each other; tests are tables and may be longer. */
const mostLines = 500;
const columns = 100;

const exportPattern =
  /^export (?:declare )?(?:abstract )?(?:async )?(?:function\*?|class|interface|type|const|enum) (\w+)/;

/** Names, sizes and members of files: what no compiler looks at. */
export function checkStyle(files: readonly SourceFile[]): Violation[] {
  return files.flatMap((file) => [
    ...checkName(file),
    ...checkLength(file),
    ...checkPrivate(file),
    ...checkExportStar(file),
    ...checkComments(file),
  ]);
}

function checkName({ path }: SourceFile): Violation[] {
  const name = basename(path);
  const isCpp = /\.(h|cc|cu|inl)$/.test(name);
  const wanted = isCpp ? /^[a-z0-9_]+\.\w+$/ : /^[a-z0-9-]+(\.(test|config))?\.\w+$/;
  if (wanted.test(name)) return [];
  const rule = isCpp ? 'C++ files are named in snake_case' : 'TypeScript files in kebab-case';
  return [{ edge: path, rule }];
}

function checkLength({ path, text }: SourceFile): Violation[] {
  const lines = text.split('\n').length - 1;
  if (lines <= mostLines || isTest(path)) return [];
  return [{ edge: `${path} (${lines} lines)`, rule: `a file has at most ${mostLines} lines` }];
}

function checkPrivate({ path, text }: SourceFile): Violation[] {
  if (!path.endsWith('.ts') || !/^\s+private\s(?!constructor)|\bprivate readonly\b/m.test(text))
    return [];
  return [{ edge: path, rule: 'private members are #members' }];
}

function checkExportStar({ path, text }: SourceFile): Violation[] {
  const isLibrary = path.endsWith('/index.ts') && !path.startsWith('proto/');
  if (!isLibrary || !/^export \* from/m.test(text)) return [];
  return [{ edge: path, rule: 'a package exports by name what others use' }];
}

/** Formatters wrap code and Markdown; comments of TypeScript are wrapped by hand. */
function checkComments({ path, text }: SourceFile): Violation[] {
  return text
    .split('\n')
    .flatMap((line, i) =>
      line.length > columns && /^\s*(\/\/|\/?\*)/.test(line) && !/https?:|eslint-/.test(line)
        ? [{ edge: `${path}:${i + 1}`, rule: `comments are wrapped at ${columns} columns` }]
        : [],
    );
}

/** Every name that another package imports has a sentence above its declaration. */
export function checkDocumentedExports(
  files: readonly SourceFile[],
  workspaces: readonly Workspace[],
): Violation[] {
  const used = new Map<string, Set<string>>();
  for (const { path, text } of files) {
    if (isTest(path)) continue;
    const imports = text.matchAll(
      /(?:import|export)\s+(?:type\s+)?\{([^}]*)\}\s+from\s+'([^']+)'/g,
    );
    for (const [, names = '', specifier = ''] of imports) {
      const target = workspaces.find(
        ({ name }) => specifier === name || specifier.startsWith(`${name}/`),
      );
      if (target === undefined || target.folder === 'proto') continue;
      const known = used.get(target.folder) ?? new Set();
      for (const name of names.split(',')) {
        known.add(
          name
            .replace(/^\s*type\s+/, '')
            .split(/\s+as\s+/)[0]!
            .trim(),
        );
      }
      used.set(target.folder, known);
    }
  }
  return files.flatMap(({ path, text }) => {
    const names = [...used].find(([folder]) => path.startsWith(`${folder}/`))?.[1];
    if (names === undefined || isTest(path)) return [];
    const lines = text.split('\n');
    return lines.flatMap((line, i) => {
      const name = exportPattern.exec(line)?.[1];
      const above = lines[i - 1]?.trimEnd() ?? '';
      if (name === undefined || !names.has(name) || above.endsWith('*/')) return [];
      // Later overloads share the first one's sentence.
      if (above.startsWith('export function ') && above.includes(`function ${name}`)) return [];
      return [
        { edge: `${path}:${i + 1} ${name}`, rule: 'what other packages use has a doc sentence' },
      ];
    });
  });
}

/** Every workspace says what it is, what may import it and how to run its tests. */
export function checkReadmes(
  workspaces: readonly Workspace[],
  exists: (path: string) => boolean,
): Violation[] {
  return workspaces
    .map(({ folder }) => `${folder}/README.md`)
    .filter((path) => !exists(path))
    .map((path) => ({ edge: path, rule: `${dirname(path)} has a README.md` }));
}
