// A bill of materials in CycloneDX 1.6, the same bytes for the same lock files.
import { readNpmComponents, readSystemPackages, readWheels } from './components.mjs';

const scopes = { run: 'required', optional: 'optional', development: 'excluded' };

const npmUrl = (name, version) => `pkg:npm/${name.replace('@', '%40')}@${version}`;

/** One licence by its SPDX name, or several in an expression. */
const licencesOf = (licence) =>
  / /.test(licence) ? [{ expression: licence }] : [{ license: { id: licence } }];

function hashesOf(integrity) {
  const [, digest] = /^sha512-(.+)$/.exec(integrity ?? '') ?? [];
  if (digest === undefined) return {};
  return { hashes: [{ alg: 'SHA-512', content: Buffer.from(digest, 'base64').toString('hex') }] };
}

/** `npm` as npmComponents gives it. */
export function cycloneDx(npm = readNpmComponents()) {
  const refs = new Map(npm.map(({ path, name, version }) => [path, npmUrl(name, version)]));
  const [main, ...others] = npm;
  const describe = ({ path, name, version, licence, integrity, use }, type = 'library') => ({
    type,
    'bom-ref': refs.get(path),
    name,
    version,
    ...(use in scopes && { scope: scopes[use] }),
    ...hashesOf(integrity),
    licenses: licencesOf(licence),
    purl: refs.get(path),
  });
  const system = readSystemPackages().map(({ name, tests }) => ({
    type: 'application',
    'bom-ref': `pkg:deb/debian/${name}`,
    name,
    scope: tests ? 'excluded' : 'required',
    description: "Of the system's version",
    purl: `pkg:deb/debian/${name}`,
  }));
  const wheels = readWheels().map(({ name, version, sha256 }) => ({
    type: 'library',
    'bom-ref': `pkg:pypi/${name}@${version}`,
    name,
    version,
    scope: 'optional',
    hashes: [{ alg: 'SHA-256', content: sha256 }],
    licenses: [{ license: { name: "NVIDIA's, in the wheel" } }],
    purl: `pkg:pypi/${name}@${version}`,
  }));
  const dependsOn = new Map();
  for (const { path, asks } of npm) {
    const own = dependsOn.get(refs.get(path)) ?? new Set();
    for (const other of asks) own.add(refs.get(other));
    dependsOn.set(refs.get(path), own);
  }
  const top = dependsOn.get(refs.get(main.path));
  for (const { path, use } of others) if (use === 'own') top.add(refs.get(path));
  for (const { 'bom-ref': ref } of [...system, ...wheels]) top.add(ref);
  // The same version in two folders is one component, of the widest use.
  const components = new Map();
  const order = ['own', 'run', 'optional', 'development'];
  const byUse = [...others].sort((a, b) => order.indexOf(a.use) - order.indexOf(b.use));
  for (const one of byUse)
    if (!components.has(refs.get(one.path))) components.set(refs.get(one.path), describe(one));
  const byRef = (a, b) => (a['bom-ref'] < b['bom-ref'] ? -1 : 1);
  return {
    $schema: 'http://cyclonedx.org/schema/bom-1.6.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: { component: describe(main, 'application') },
    components: [...components.values(), ...system, ...wheels].sort(byRef),
    dependencies: [...dependsOn]
      .map(([ref, on]) => ({ ref, dependsOn: [...on].sort() }))
      .sort((a, b) => (a.ref < b.ref ? -1 : 1)),
  };
}
