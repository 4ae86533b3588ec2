import { parseConfig, SpindleError } from '@spindle/kit';
import { z } from 'zod';
import type { RunData } from './domain/report.js';

// JSON has no NaN: a value that was not finite arrives as null and is drawn as a gap.
const number = z
  .number()
  .nullable()
  .transform((value) => value ?? Number.NaN);

const schema = z.object({
  run_id: z.string(),
  config: z.unknown(),
  status: z.string(),
  best_model: z.string().default(''),
  warnings: z.array(z.string()).default([]),
  timings: z.record(z.string(), z.number()).default({}),
  curves: z
    .record(
      z.string(),
      z.array(
        z.object({
          step: z.number(),
          loss: number,
          error_real: number,
          error_generated: number,
          opponent_error_real: number,
          opponent_error_generated: number,
          implicit_accuracy: number,
          grad_norm: number,
          learning_rate: number,
        }),
      ),
    )
    .default({}),
});

export function readRunData(json: string): RunData {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (cause) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'run_json: expected JSON, got text that does not parse',
      { cause },
    );
  }
  return parseConfig(schema, value, 'run_json');
}
