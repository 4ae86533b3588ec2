import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { npmComponents, readNpmComponents } from './components.mjs';
import { cycloneDx } from './cyclonedx.mjs';
import { notices } from './notices.mjs';
import { root } from './phase.mjs';

const lock = {
  packages: {
    '': { name: 'top', version: '1.0.0', license: 'MIT', devDependencies: { tool: '3' } },
    'parts/a': { name: '@x/a', version: '1.0.0', license: 'MIT', dependencies: { b: '1', c: '1' } },
    'node_modules/@x/a': { resolved: 'parts/a', link: true },
    'parts/a/node_modules/b': { version: '1.0.0', license: 'ISC', integrity: 'sha512-AAEC' },
    'node_modules/b': {
      version: '2.0.0',
      license: '(MIT OR ISC)',
      dependencies: { '@x/a': '1' },
      optionalDependencies: { absent: '1' },
    },
    'node_modules/c': {
      version: '1.0.0',
      license: 'MIT',
      optional: true,
      dependencies: { b: '2' },
    },
    'node_modules/tool': { version: '3.0.0', license: 'MPL-2.0', dev: true },
  },
};

describe('the components of a lock', () => {
  const found = npmComponents(lock);
  const of = (path) => found.find((one) => one.path === path);

  it('have names, uses, and what they ask for where Node finds it', () => {
    expect(found.map(({ name, use }) => [name, use])).toEqual([
      ['top', 'own'],
      ['@x/a', 'own'],
      ['b', 'run'],
      ['b', 'run'],
      ['c', 'optional'],
      ['tool', 'development'],
    ]);
    expect(of('').asks).toEqual(['node_modules/tool']);
    expect(of('parts/a').asks).toEqual(['parts/a/node_modules/b', 'node_modules/c']);
    expect(of('node_modules/b').asks).toEqual(['parts/a']);
    expect(of('node_modules/c').asks).toEqual(['node_modules/b']);
  });

  it('without a licence are refused by name', () => {
    expect(() => npmComponents({ packages: { 'node_modules/x': { version: '1' } } })).toThrow(
      'node_modules/x: expected a license',
    );
  });

  it('are in the bill with digests, scopes and edges', () => {
    const { components, dependencies } = cycloneDx(found);
    const b = components.find(({ purl }) => purl === 'pkg:npm/b@1.0.0');
    expect(b).toMatchObject({
      scope: 'required',
      hashes: [{ alg: 'SHA-512', content: '000102' }],
      licenses: [{ license: { id: 'ISC' } }],
    });
    expect(components.find(({ name, version }) => name === 'b' && version === '2.0.0')).toEqual(
      expect.objectContaining({ licenses: [{ expression: '(MIT OR ISC)' }] }),
    );
    expect(components.find(({ name }) => name === 'tool').scope).toBe('excluded');
    expect(dependencies.find(({ ref }) => ref === 'pkg:npm/%40x/a@1.0.0').dependsOn).toEqual([
      'pkg:npm/b@1.0.0',
      'pkg:npm/c@1.0.0',
    ]);
  });

  it('with a licence that nobody has thought of stop the notices', () => {
    const strange = { ...of('node_modules/b'), licence: 'AGPL-3.0-only' };
    expect(() => notices([strange])).toThrow(/^b: expected a licence .* got AGPL-3.0-only/);
    expect(() => notices([{ ...of('node_modules/tool'), use: 'run' }])).toThrow(/got MPL-2.0/);
    expect(() => notices([{ ...strange, licence: 'LGPL-3.0-or-later' }])).toThrow(/got LGPL/);
  });
});

describe("the repository's own bill", () => {
  const bill = cycloneDx();
  const refs = new Set([
    bill.metadata.component['bom-ref'],
    ...bill.components.map((one) => one['bom-ref']),
  ]);

  it('has every package once, with a digest, and every edge ends at one of them', () => {
    expect(refs.size).toBe(bill.components.length + 1);
    for (const { path, name, version, use } of readNpmComponents()) {
      expect(refs, path).toContain(`pkg:npm/${name.replace('@', '%40')}@${version}`);
      expect(['own', 'run', 'optional', 'development']).toContain(use);
    }
    const foreign = bill.components.filter(
      ({ purl, name }) => purl.startsWith('pkg:npm/') && !name.startsWith('@spindle/'),
    );
    expect(foreign.length).toBeGreaterThan(300);
    for (const { name, hashes } of foreign)
      expect(hashes?.[0]?.content, name).toMatch(/^[0-9a-f]{128}$/);
    for (const { ref, dependsOn } of bill.dependencies)
      for (const other of [ref, ...dependsOn]) expect(refs).toContain(other);
  });

  it('has the programs of the system and the wheels of CUDA', () => {
    expect(refs).toContain('pkg:deb/debian/nats-server');
    const wheels = bill.components.filter(({ purl }) => purl.startsWith('pkg:pypi/'));
    expect(wheels.length).toBeGreaterThan(5);
    for (const { hashes } of wheels) expect(hashes[0].content).toMatch(/^[0-9a-f]{64}$/);
  });

  it('is written in the notices, which name what is not permissive', () => {
    const text = notices();
    expect(text).toContain('| @img/sharp-libvips-linux-x64 |');
    expect(text).toContain('LGPL-3.0-or-later');
    expect(readFileSync(join(root, 'package.json'), 'utf8')).toContain('"sbom"');
  });
});
