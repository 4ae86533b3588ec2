/** What a script learns from how `spindle` ended; `spindle --help` lists them. */
export const exitCodes = {
  done: 0,
  /** The run or the work. */
  failed: 1,
  badInput: 2,
  /** The run that was followed. */
  paused: 3,
  /** No mesh is running, or none answers. */
  unreachable: 4,
} as const;
