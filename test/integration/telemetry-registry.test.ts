import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parse } from 'yaml';
import { root } from '../harness/child.js';

interface Registry {
  metrics: Record<
    string,
    { kind: string; unit?: string; by: string[]; attributes?: string[]; about: string }
  >;
}

const kinds: Record<string, string> = {
  Counter: 'counter',
  Gauge: 'gauge',
  Histogram: 'histogram',
  ObservableGauge: 'observable_gauge',
};

function instrumentsOf(
  process: string,
  folder: string,
): { name: string; kind: string; process: string }[] {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(
    (name) => name.endsWith('.ts') && !name.endsWith('.test.ts'),
  );
  return files.flatMap((name) =>
    [
      ...readFileSync(join(folder, name), 'utf8').matchAll(
        /\.create(Counter|Gauge|Histogram|ObservableGauge)\(\s*'([^']+)'/g,
      ),
    ].map(([, kind = '', metric = '']) => ({
      name: metric,
      kind: kinds[kind] ?? '',
      process,
    })),
  );
}

it('the telemetry registry names every metric that the sources create, with its kind and who creates it', () => {
  const registry = (
    parse(readFileSync(join(root, 'infra/telemetry/metrics.yaml'), 'utf8')) as Registry
  ).metrics;
  const created = [
    ...instrumentsOf('gateway', join(root, 'gateway/src')),
    ...['sampler', 'scorer', 'trainer', 'evaluator'].flatMap((service) =>
      instrumentsOf(service, join(root, 'services', service, 'src')),
    ),
  ];
  const found: Record<string, { kind: string; by: string[] }> = {};
  for (const { name, kind, process } of created) {
    found[name] ??= { kind, by: [] };
    found[name].by.push(process);
  }
  expect(found).toEqual(
    Object.fromEntries(
      Object.entries(registry).map(([name, { kind, by }]) => [name, { kind, by }]),
    ),
  );
  for (const { about } of Object.values(registry)) expect(about).toMatch(/\.$/);
});
