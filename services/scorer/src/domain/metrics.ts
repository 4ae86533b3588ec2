export const metricKinds = [
  'clip',
  'pickscore',
  'hpsv2',
  'clip_score',
  'image_reward',
  'aesthetic',
] as const;
export const preprocessMethods = [
  'transformers',
  'torchvision',
  'tensor',
  'tensor_antialias',
] as const;

export type MetricKind = (typeof metricKinds)[number];
export type Preprocess = (typeof preprocessMethods)[number];

/** Empty paths and texts mean "not given". */
export interface Metric {
  name: string;
  kind: MetricKind;
  clipPath: string;
  headPath: string;
  tokenizerPath: string;
  fallbackTokenizerPath: string;
  /** Undefined: as the kind's own code does. */
  preprocess: Preprocess | undefined;
  /** What cosines are multiplied by; undefined: the kind's own. */
  scale: number | undefined;
  variant: string | undefined;
}

type Spec = Omit<Metric, 'kind' | 'preprocess' | 'scale' | 'variant'> & {
  kind: string;
  preprocess: string;
  scale: number;
  variant: string;
};

/** Throws Error with a sentence that names field, expected and got. */
export function checkMetrics(specs: readonly Spec[]): Metric[] {
  if (specs.length === 0) throw new Error('metrics: expected at least one, got none');
  const names = new Set<string>();
  return specs.map((spec, index) => {
    const where = `metrics[${index}]`;
    const { name, kind, clipPath, headPath, tokenizerPath, fallbackTokenizerPath } = spec;
    if (name === '') throw new Error(`${where}.name: expected a name, got nothing`);
    if (names.has(name))
      throw new Error(`${where}.name: expected a name of its own, got "${name}" twice`);
    names.add(name);
    if (clipPath === '')
      throw new Error(`${where}.clip_path: expected the model's folder or file, got nothing`);
    if (kind === 'aesthetic' && headPath === '')
      throw new Error(`${where}.head_path: expected the head's folder or file, got nothing`);
    if (spec.scale < 0 || !Number.isFinite(spec.scale))
      throw new Error(`${where}.scale: expected a positive number, got ${spec.scale}`);
    return {
      name,
      kind: oneOf(metricKinds, kind, `${where}.kind`),
      clipPath,
      headPath,
      tokenizerPath,
      fallbackTokenizerPath,
      preprocess:
        spec.preprocess === ''
          ? undefined
          : oneOf(preprocessMethods, spec.preprocess, `${where}.preprocess`),
      scale: spec.scale === 0 ? undefined : spec.scale,
      variant: spec.variant === '' ? undefined : spec.variant,
    };
  });
}

function oneOf<T extends string>(allowed: readonly T[], value: string, where: string): T {
  const found = allowed.find((candidate) => candidate === value);
  if (found === undefined)
    throw new Error(`${where}: expected ${allowed.join(', ')}, got "${value}"`);
  return found;
}

/** Metrics whose model is loaded once: the same files, read with the same tokenizer. */
export function groupByModel(metrics: readonly Metric[]): Map<string, Metric[]> {
  const groups = new Map<string, Metric[]>();
  for (const metric of metrics) {
    const { clipPath, tokenizerPath, fallbackTokenizerPath } = metric;
    const family = metric.kind === 'image_reward' ? 'image_reward' : 'clip';
    const key = JSON.stringify([family, clipPath, tokenizerPath, fallbackTokenizerPath]);
    groups.set(key, [...(groups.get(key) ?? []), metric]);
  }
  return groups;
}
