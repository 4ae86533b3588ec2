/** Names of a checkpoint's two files: its data, and the manifest that makes it one. */
const fileName = /^step-(\d{8})\.(json|safetensors)$/;

export function stem(step: number): string {
  return `step-${String(step).padStart(8, '0')}`;
}

/** Step and kind of a checkpoint's file; null for any other. */
export function parseName(name: string): { step: number; isManifest: boolean } | null {
  const [, digits, extension] = fileName.exec(name) ?? [];
  return digits === undefined ? null : { step: Number(digits), isManifest: extension === 'json' };
}

/** Steps of the manifests among these files. */
export function manifestSteps(names: readonly string[]): number[] {
  return names.flatMap((name) => {
    const file = parseName(name);
    return file?.isManifest === true ? [file.step] : [];
  });
}
