// What the chart's objects have to be, whatever the values.
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { root } from './phase.mjs';

export const chartFolder = join(root, 'infra/helm/spindle');

export function manifestsOf(text) {
  return parseAllDocuments(text)
    .map((document) => {
      if (document.errors.length > 0) throw document.errors[0];
      return document.toJS();
    })
    .filter((manifest) => manifest !== null);
}

/** One line per fault. */
export function chartFaults(manifests) {
  const faults = [];
  const names = new Set();
  for (const manifest of manifests) {
    const where = `${manifest.kind} ${manifest.metadata?.name}`;
    if (names.has(where)) faults.push(`${where}: expected it once, got it again`);
    names.add(where);
    const pod = manifest.spec?.template?.spec;
    if (pod !== undefined) faults.push(...podFaults(pod).map((fault) => `${where}: ${fault}`));
  }
  return faults;
}

/** Kubernetes' restricted profile, and what every pod of ours has. */
function podFaults(pod) {
  const faults = [];
  const expect = (holds, what) => {
    if (!holds) faults.push(`expected ${what}`);
  };
  expect(pod.securityContext?.runAsNonRoot === true, 'runAsNonRoot');
  expect(pod.securityContext?.seccompProfile?.type === 'RuntimeDefault', 'seccomp RuntimeDefault');
  expect(pod.automountServiceAccountToken === false, 'no token of a service account');
  // A service named spindle-… would otherwise add variables to our own prefix.
  expect(pod.enableServiceLinks === false, 'enableServiceLinks: false');
  const volumes = new Set(pod.volumes?.map(({ name }) => name));
  for (const container of pod.containers) {
    const of = (what) => `${what} of container ${container.name}`;
    const security = container.securityContext ?? {};
    expect(security.allowPrivilegeEscalation === false, of('allowPrivilegeEscalation: false'));
    expect(security.readOnlyRootFilesystem === true, of('readOnlyRootFilesystem'));
    expect(security.capabilities?.drop?.includes('ALL'), of('capabilities dropped'));
    expect(container.resources?.requests?.memory !== undefined, of('a memory request'));
    expect(container.resources?.limits?.memory !== undefined, of('a memory limit'));
    for (const probe of ['startupProbe', 'readinessProbe', 'livenessProbe'])
      expect(container[probe] !== undefined, of(probe));
    const claimed = ['artifacts', 'data'];
    for (const { name } of container.volumeMounts ?? [])
      expect(volumes.has(name) || claimed.includes(name), of(`a volume for mount ${name}`));
    const variables = (container.env ?? []).map(({ name }) => name);
    expect(new Set(variables).size === variables.length, of('each variable once'));
  }
  return faults;
}
