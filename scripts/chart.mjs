// `npm run chart`: renders the Helm chart with each file of infra/helm/spindle/ci and looks at what
// comes out. Needs helm 3.14 or newer.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { chartFaults, chartFolder, manifestsOf } from './lib/chart.mjs';
import { main, runQuietly, ScriptError } from './lib/phase.mjs';
import { findCommand } from './lib/system.mjs';

const help = `npm run chart [-- options]: lints and renders the Helm chart, checks the manifests.

  --schemas DIR  with kubeconform too, against strict JSON schemas in DIR ({{.ResourceKind}}-{{.Group}}-…)
  --help         this text

Helm is taken from SPINDLE_HELM or PATH.`;

await main(() => {
  const { values } = parseArgs({
    options: { schemas: { type: 'string' }, help: { type: 'boolean', default: false } },
  });
  if (values.help) {
    console.log(help);
    return 0;
  }
  const helm = findCommand([process.env.SPINDLE_HELM, 'helm']);
  if (helm === undefined)
    throw new ScriptError('helm: expected it on PATH or in SPINDLE_HELM, got neither', 2);
  let faults = 0;
  for (const name of readdirSync(join(chartFolder, 'ci')).sort()) {
    const file = join(chartFolder, 'ci', name);
    runQuietly(helm, ['lint', '--strict', chartFolder, '--values', file]);
    const text = runQuietly(helm, [
      ...['template', 'demo', chartFolder, '--values', file],
      ...['--kube-version', '1.31.0', '--namespace', 'spindle'],
    ]);
    const manifests = manifestsOf(text);
    const found = chartFaults(manifests);
    for (const fault of found) console.error(`${name}: ${fault}`);
    faults += found.length;
    if (values.schemas !== undefined)
      runQuietly('kubeconform', ['-strict', '-summary', '-schema-location', values.schemas], {
        input: text,
      });
    console.log(`${name}: ${manifests.length} objects, ${found.length} faults`);
  }
  return faults === 0 ? 0 : 1;
});
