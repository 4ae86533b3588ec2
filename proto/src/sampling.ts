/** What SamplingSettings mean where they say nothing; the run config's defaults are the same. */
export const samplingDefaults = { steps: 50, guidanceScale: 7.5 } as const;
