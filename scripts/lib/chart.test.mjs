import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parse } from 'yaml';
import { chartFaults, chartFolder, manifestsOf } from './chart.mjs';
import { root } from './phase.mjs';

const read = (path) => readFileSync(join(chartFolder, path), 'utf8');

it('sets only variables that the docs name', () => {
  const operations = readFileSync(join(root, 'docs/OPERATIONS.md'), 'utf8');
  const templates = readdirSync(join(chartFolder, 'templates')).map((name) =>
    read(`templates/${name}`),
  );
  const set = new Set(templates.join('\n').match(/\b(?:SPINDLE)_[A-Z_]+[A-Z]\b/g));
  // The server's own passwords are those of infra/nats/users.conf.
  const known = [...set].filter((name) => !name.endsWith('_PASSWORD'));
  expect(known.filter((name) => !operations.includes(`\`${name}\``))).toEqual([]);
  expect(known.length).toBeGreaterThan(15);
});

it('knows the keys of its values, and no others', () => {
  const schema = JSON.parse(read('values.schema.json'));
  const keysOf = (node) => Object.keys(node.properties).filter((key) => key !== 'global');
  const values = parse(read('values.yaml'));
  expect(keysOf(schema).sort()).toEqual(Object.keys(values).sort());
  expect(keysOf(schema.definitions.pool).sort()).toEqual(Object.keys(values.poolDefaults).sort());
  expect(schema.additionalProperties).toBe(false);
});

it('names what a pod lacks', () => {
  const good = `
kind: Deployment
metadata: {name: one}
spec:
  template:
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: c
          securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
          resources: {requests: {memory: 1Gi}, limits: {memory: 1Gi}}
          startupProbe: {}
          readinessProbe: {}
          livenessProbe: {}
`;
  expect(chartFaults(manifestsOf(good))).toEqual([]);
  expect(chartFaults(manifestsOf(good.replace('readOnlyRootFilesystem: true, ', '')))).toEqual([
    'Deployment one: expected readOnlyRootFilesystem of container c',
  ]);
  expect(chartFaults(manifestsOf(`${good}---${good}`))).toEqual([
    'Deployment one: expected it once, got it again',
  ]);
});
