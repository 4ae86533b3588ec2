export interface Metric {
  name: string;
  kind: 'clip' | 'aesthetic';
  clipPath: string;
  headPath: string;
}

interface Spec {
  name: string;
  kind: string;
  clipPath: string;
  headPath: string;
}

/** Throws Error with a sentence that names field, expected and got. */
export function checkMetrics(specs: readonly Spec[]): Metric[] {
  if (specs.length === 0) throw new Error('metrics: expected at least one, got none');
  const names = new Set<string>();
  return specs.map((spec, index) => {
    const where = `metrics[${index}]`;
    if (spec.name === '') throw new Error(`${where}.name: expected a name, got nothing`);
    if (names.has(spec.name)) throw new Error(`${where}.name: expected a name of its own, got "${spec.name}" twice`);
    names.add(spec.name);
    if (spec.kind !== 'clip' && spec.kind !== 'aesthetic') throw new Error(`${where}.kind: expected clip or aesthetic, got "${spec.kind}"`);
    if (spec.clipPath === '') throw new Error(`${where}.clip_path: expected a CLIPModel folder, got nothing`);
    if (spec.kind === 'aesthetic' && spec.headPath === '') throw new Error(`${where}.head_path: expected the head's folder, got nothing`);
    return { name: spec.name, kind: spec.kind, clipPath: spec.clipPath, headPath: spec.headPath };
  });
}

/** Metrics that share a CLIP model share its image embeddings. */
export function groupByClip(metrics: readonly Metric[]): Map<string, Metric[]> {
  const groups = new Map<string, Metric[]>();
  for (const metric of metrics) groups.set(metric.clipPath, [...(groups.get(metric.clipPath) ?? []), metric]);
  return groups;
}
