/** JSON files of models as the libraries want them. */
import { writeFileSync } from 'node:fs';
import type { JsonObject } from './json.js';

/** Fields that are floats to transformers and diffusers, whatever their value. */
const floats: ReadonlySet<string> = new Set([
  ...['attention_dropout', 'dropout', 'initializer_factor', 'initializer_range'],
  ...['layer_norm_eps', 'logit_scale_init_value', 'norm_eps', 'scaling_factor', 'shift_factor'],
  ...['mid_block_scale_factor', 'resnet_out_scale_factor'],
  ...['beta_start', 'beta_end', 'clip_sample_range', 'sample_max_value'],
  ...['dynamic_thresholding_ratio'],
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
  const text = JSON.stringify(
    value,
    (key, item: unknown) => {
      if (typeof item !== 'number') return item;
      if (!Number.isFinite(item)) return marker + String(item);
      return floats.has(key) && Number.isInteger(item) ? `${marker}${item}.0` : item;
    },
    2,
  );
  writeFileSync(file, `${text.replace(marked, '$1')}\n`);
}
