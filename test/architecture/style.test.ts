import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { readSources, readWorkspaces } from './sources.js';
import { checkDocumentedExports, checkReadmes, checkStyle } from './style-rules.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folders = ['proto', 'services', 'gateway', 'native-cuda', 'scripts', 'test'];
const files = readSources(root, folders, /\.(ts|mjs|h|cc|cu|inl)$/).filter(
  ({ path }) => !path.includes('/fixtures/'),
);
const workspaces = readWorkspaces(root);

describe('the house', () => {
  test('names its files in one way, keeps them short and its members private', () => {
    expect(files.length).toBeGreaterThan(500);
    expect(checkStyle(files)).toEqual([]);
  });

  test('says what everything is that crosses packages', () => {
    expect(checkDocumentedExports(files, workspaces)).toEqual([]);
  });

  test('has a README in every package', () => {
    expect(checkReadmes(workspaces, (path) => existsSync(join(root, path)))).toEqual([]);
  });
});

describe('each broken rule is named with its file', () => {
  test.each<[string, string, string]>([
    ['services/kit/src/my_file.ts', '', 'TypeScript files in kebab-case'],
    ['native-cuda/engine/ops/my-op.cc', '', 'C++ files are named in snake_case'],
    ['gateway/src/x.ts', 'x\n'.repeat(501), 'a file has at most 500 lines'],
    ['gateway/src/x.ts', `// ${'x '.repeat(50)}`, 'comments are wrapped at 100 columns'],
    ['gateway/src/x.ts', 'class A {\n  private x = 1;\n}\n', 'private members are #members'],
    [
      'services/kit/src/index.ts',
      "export * from './errors.js';\n",
      'a package exports by name what others use',
    ],
  ])('%s', (path, text, rule) => {
    const found = checkStyle([{ path, text }]);
    expect(found).toHaveLength(1);
    expect(found[0]?.rule).toBe(rule);
    expect(found[0]?.edge.startsWith(path)).toBe(true);
  });

  test('an export that others use wants a sentence; what nobody else uses does not', () => {
    const kit = { folder: 'services/kit', name: '@spindle/kit', exports: ['.'], dependencies: [] };
    const sources = [
      { path: 'gateway/src/a.ts', text: "import { type A, b as c } from '@spindle/kit';" },
      {
        path: 'services/kit/src/x.ts',
        text: '/** An A. */\nexport interface A {}\nexport const b = 1;\nexport const d = 2;\n',
      },
    ];
    expect(checkDocumentedExports(sources, [kit])).toEqual([
      { edge: 'services/kit/src/x.ts:3 b', rule: 'what other packages use has a doc sentence' },
    ]);
  });

  test('a package without a README', () => {
    const kit = { folder: 'services/kit', name: '@spindle/kit', exports: [], dependencies: [] };
    expect(checkReadmes([kit], () => false)).toEqual([
      { edge: 'services/kit/README.md', rule: 'services/kit has a README.md' },
    ]);
  });
});
