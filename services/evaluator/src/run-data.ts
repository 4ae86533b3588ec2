/** The run that a report is about, as the gateway tells it. */
import { SpindleError } from '@spindle/kit';
import type { RunReport } from '@spindle/proto';

/** The run's resolved config; throws INVALID_ARGUMENT where the report says too little. */
export function readRun(run: RunReport | undefined): { run: RunReport; config: unknown } {
  if (run === undefined || run.runId === '')
    throw new SpindleError('INVALID_ARGUMENT', 'run.run_id: expected a run, got nothing');
  try {
    return { run, config: JSON.parse(run.configJson) };
  } catch (cause) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'run.config_json: expected JSON, got text that does not parse',
      { cause },
    );
  }
}
