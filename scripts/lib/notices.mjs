// THIRD_PARTY_NOTICES.md: what others wrote, under which terms.
import { readNpmComponents, readSystemPackages, readWheels } from './components.mjs';
import { ScriptError } from './phase.mjs';

/** Terms under which the mesh may use a package, and those for tools that are not shipped. */
const permissive = [
  '0BSD',
  'Apache-2.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'BlueOak-1.0.0',
  'ISC',
  'MIT',
  'Unlicense',
];
/** libvips, loaded as a library of its own. */
const dynamic = { licence: 'LGPL-3.0-or-later', packages: /^@img\/sharp-/ };
const tools = ['MPL-2.0'];

function checkLicence({ name, licence, use }) {
  for (const term of licence.replace(/[()]/g, '').split(/ (?:AND|OR) /)) {
    if (permissive.includes(term)) continue;
    if (term === dynamic.licence && dynamic.packages.test(name)) continue;
    if (use === 'development' && tools.includes(term)) continue;
    throw new ScriptError(
      `${name}: expected a licence that scripts/lib/notices.mjs knows, got ${licence}`,
    );
  }
}

const head = `# Third-party notices

Spindle is under the [Apache License 2.0](LICENSE). The repository holds its own code alone. What it
needs is fetched by \`npm ci\`, by the system's package manager and, for CUDA, by
\`scripts/cuda/toolkit.mjs\`. Each brings its own licence text: a file LICENSE in the package's
folder, /usr/share/doc/NAME/copyright, the wheel's dist-info. Whoever ships Spindle together with
these, as in an image, ships their texts too. \`npm run sbom\` says the same with digests, as
CycloneDX.

This file is written by \`npm run generate\` from package-lock.json and scripts/cuda/toolkit.lock.

## libvips (LGPL-3.0-or-later)

sharp decodes images with libvips, which comes prebuilt as \`@img/sharp-libvips-*\` together with the
libraries that its README lists. It is loaded dynamically and unmodified. To use a libvips of your
own, build sharp against it (sharp's documentation: "Building from source").
`;

const table = (rows) =>
  ['| package | version | licence |', '| --- | --- | --- |', ...rows].join('\n');

export function notices(npm = readNpmComponents()) {
  npm.forEach(checkLicence);
  const rows = (...uses) => {
    const lines = npm
      .filter(({ use }) => uses.includes(use))
      .map(({ name, version, licence }) => `| ${name} | ${version} | ${licence} |`);
    return table([...new Set(lines)].sort());
  };
  const wheels = readWheels().map(({ name, version }) => `- ${name} ${version}`);
  const system = readSystemPackages().map(
    ({ name, tests }) => `- ${name}${tests ? ' (tests only)' : ''}`,
  );
  return [
    head,
    `## What the mesh runs with\n\n${rows('run')}\n`,
    `## One of these, by platform\n\n${rows('optional')}\n`,
    `## Programs of the system\n\n${system.join('\n')}\n`,
    '## CUDA\n\nFetched only where the CUDA backend is built on a machine without a toolkit, ' +
      `under NVIDIA's\nterms in each wheel:\n\n${wheels.join('\n')}\n`,
    `## Tools of development, not part of what runs\n\n${rows('development')}\n`,
  ].join('\n');
}
