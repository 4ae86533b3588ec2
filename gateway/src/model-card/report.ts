/** What a model card takes from report.json. */
import { parseConfig, SpindleError } from '@spindle/kit';
import { z } from 'zod';

const reportSchema = z.object({
  models: z.array(
    z.object({
      name: z.string(),
      metrics: z.record(
        z.string(),
        z.object({
          mean: z.number(),
          mean_low: z.number().optional(),
          mean_high: z.number().optional(),
          median: z.number(),
          standard_error: z.number(),
          win_rate: z.number(),
          difference_low: z.number(),
          difference_high: z.number(),
          p_value: z.number().optional(),
          p_corrected: z.number().optional(),
          n: z.number(),
        }),
      ),
    }),
  ),
  judges: z
    .record(
      z.string(),
      z
        .object({
          kind: z.string(),
          files: z.array(z.object({ name: z.string(), digest: z.string() })),
          variant: z.string(),
          scale: z.string(),
          preprocess: z.string(),
        })
        .transform(({ kind, files, variant, scale, preprocess }) =>
          [
            `Judge: ${kind}`,
            variant,
            scale,
            `preprocessing ${preprocess}`,
            ...files.map((file) => `${file.name} ${file.digest}`),
          ].join('; '),
        ),
    )
    .default({}),
});

export type CardReport = z.output<typeof reportSchema>;

export function readCardReport(text: string, where: string): CardReport {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${where}: expected JSON, got text that does not parse.`,
      { cause },
    );
  }
  return parseConfig(reportSchema, value, where);
}
