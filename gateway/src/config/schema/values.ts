/** Kinds of values that several sections have. */
import { z } from 'zod';

export const positiveInt = z.int().min(1);
export const count = z.int().min(0);
export const rate = z.number().min(0).max(1);
export const seed = z.int().min(0).max(Number.MAX_SAFE_INTEGER);

/** One value for all iterations, or a list with one per iteration (the last one repeats). */
export function perIteration<T extends z.ZodType>(value: T) {
  return z.union([value, z.array(value).min(1)]);
}

/**
 * "FOLDER@VARIANT" and {path, variant} are the same; the former is what everything behind the
 * config reads.
 */
export function modelFolder(description: string) {
  return z
    .union([
      z.string().min(1),
      variantFolder.transform(({ path, variant }) => `${path.replace(/\/+$/, '')}@${variant}`),
    ])
    .describe(`${description} FOLDER@fp16, or {path, variant}, takes the weights of a variant.`);
}

const variantFolder = z.strictObject({
  path: z.string().min(1).describe('The folder.'),
  variant: z
    .string()
    .regex(/^[A-Za-z0-9_.-]+$/)
    .describe(
      'Which of several weights files, by the word in their names, e.g. "fp16" for ' +
        'diffusion_pytorch_model.fp16.safetensors. The U-Net must have it; other parts without ' +
        'it give their plain files.',
    ),
});
