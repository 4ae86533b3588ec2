/** How images are drawn, with every default filled in. */
export interface Sampling {
  /** Empty: the pipeline's own. */
  scheduler: string;
  overridesJson: string;
  steps: number;
  guidanceScale: number;
  eta: number;
  /** 0: the pipeline's own size. */
  height: number;
  width: number;
}

export const defaultSteps = 50;
export const defaultGuidanceScale = 7.5;
const mostSteps = 1000;

interface Settings {
  scheduler: string;
  schedulerOverridesJson: string;
  steps: number;
  guidanceScale: number;
  eta: number;
  height: number;
  width: number;
}

/** Throws Error with a sentence that names field, expected and got. */
export function resolveSampling(settings: Settings | undefined): Sampling {
  const sampling: Sampling = {
    scheduler: settings?.scheduler ?? '',
    overridesJson: settings?.schedulerOverridesJson ?? '',
    steps: settings?.steps || defaultSteps,
    guidanceScale: settings?.guidanceScale || defaultGuidanceScale,
    eta: settings?.eta ?? 0,
    height: settings?.height ?? 0,
    width: settings?.width ?? 0,
  };
  if (sampling.steps > mostSteps)
    throw new Error(`sampling.steps: expected at most ${mostSteps}, got ${sampling.steps}`);
  if (!Number.isFinite(sampling.guidanceScale) || sampling.guidanceScale < 0) {
    throw new Error(
      `sampling.guidance_scale: expected a number of at least 0, got ${sampling.guidanceScale}`,
    );
  }
  if (!(sampling.eta >= 0 && sampling.eta <= 1))
    throw new Error(`sampling.eta: expected a number from 0 to 1, got ${sampling.eta}`);
  return sampling;
}
