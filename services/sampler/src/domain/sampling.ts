/** How images are drawn, with what was left open filled in and what cannot be refused. */
import { samplingDefaults, type SamplingSettings } from '@spindle/proto';

/** SamplingSettings in which every number is there. */
export type ResolvedSampling = SamplingSettings & { steps: number; guidanceScale: number };

const mostSteps = 1000;

/** Throws Error with a sentence that names field, expected and got. */
export function resolveSampling(asked: SamplingSettings): ResolvedSampling {
  const { steps = samplingDefaults.steps, guidanceScale = samplingDefaults.guidanceScale } = asked;
  if (steps < 1 || steps > mostSteps)
    throw new Error(`sampling.steps: expected a number from 1 to ${mostSteps}, got ${steps}`);
  if (!(Number.isFinite(guidanceScale) && guidanceScale >= 0)) {
    throw new Error(
      `sampling.guidance_scale: expected a number of at least 0, got ${guidanceScale}`,
    );
  }
  if (!(asked.eta >= 0 && asked.eta <= 1))
    throw new Error(`sampling.eta: expected a number from 0 to 1, got ${asked.eta}`);
  const { strength } = asked;
  if (strength !== undefined && !(strength > 0 && strength <= 1 && steps * strength >= 1))
    throw new Error(
      `sampling.strength: expected a number from 1 / ${steps} (steps) to 1, got ${strength}`,
    );
  return { ...asked, steps, guidanceScale };
}
