/** JSON files of models as the libraries want them. */
import { writeFileSync } from 'node:fs';
import type { JsonObject } from './json.js';

/** Fields that are floats to transformers and diffusers, whatever their value. */
export const floats: ReadonlySet<string> = new Set([
  ...['attention_dropout', 'dropout', 'initializer_factor', 'initializer_range'],
  ...['layer_norm_eps', 'logit_scale_init_value', 'norm_eps', 'scaling_factor', 'shift_factor'],
  ...['mid_block_scale_factor', 'resnet_out_scale_factor', 'rescale_factor'],
  ...['beta_start', 'beta_end', 'clip_sample_range', 'sample_max_value', 'sigma_min', 'sigma_max'],
  ...['dynamic_thresholding_ratio', 'flow_shift', 'lambda_min_clipped', 'timestep_scaling'],
  // Lists of them.
  ...['image_mean', 'image_std', 'latents_mean', 'latents_std', 'trained_betas'],
]);

const marker = '\u0000number:';
const marked = new RegExp(
  `"${JSON.stringify(marker).slice(1, -1).replace('\\', '\\\\')}([^"]+)"`,
  'g',
);

/**
 * Indented, with Infinity and NaN as Python writes them and floats as 1.0: transformers 5 refuses 1
 * where it expects a float.
 */
export function writeModelJson(file: string, value: JsonObject): void {
  const float = (item: unknown): unknown =>
    typeof item === 'number' && Number.isInteger(item) ? `${marker}${item}.0` : item;
  const text = JSON.stringify(
    value,
    (key, item: unknown) => {
      if (typeof item === 'number' && !Number.isFinite(item)) return marker + String(item);
      if (!floats.has(key)) return item;
      return Array.isArray(item) ? item.map(float) : float(item);
    },
    2,
  );
  writeFileSync(file, `${text.replace(marked, '$1')}\n`);
}
