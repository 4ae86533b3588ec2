/**
 * A LoRA file of ours with kohya's names (sd-scripts), which ComfyUI, A1111 and Forge read: those
 * of diffusers with underscores, or for SDXL the original code's.
 */
import { invalid } from '@spindle/native';
import { dtypeBytes, type TensorSource } from '@spindle/kit';
import type { JsonObject } from '../files/json.js';
import { floatTypes, castTo } from './cast.js';
import { ldmUnetSource } from './ldm-names.js';

export interface KohyaLora {
  tensors: TensorSource[];
  metadata: Record<string, string>;
}

const originalPrefix = 'model.diffusion_model.';

/**
 * `path` is the file of `sources`; `header` is its metadata. The scale of our files lies in
 * lora_B, so that each alpha is its rank.
 */
export function kohyaLora(
  path: string,
  sources: readonly TensorSource[],
  header: Readonly<Record<string, string>>,
  unet: JsonObject,
): KohyaLora {
  if (header['lora_adapter_metadata'] !== undefined)
    throw invalid(
      path,
      'lora_adapter_metadata: expected a LoRA file that Spindle wrote, whose scale is in its ' +
        'weights, got one that states a scale',
    );
  const sdxl = unet['addition_embed_type'] === 'text_time';
  const ranks = new Set<number>();
  const tensors = sources.flatMap((source): TensorSource[] => {
    const match = /^unet\.(.+)\.lora_(A|B)\.weight$/.exec(source.name);
    if (match === null)
      throw invalid(
        path,
        `${source.name}: expected a tensor of a LoRA file that Spindle wrote ` +
          '(unet.….lora_A.weight, unet.….lora_B.weight), got another one',
      );
    const [, layer = '', side] = match;
    const original = (): string =>
      (ldmUnetSource(`${layer}.weight`, unet).names[0] ?? '')
        .slice(originalPrefix.length)
        .replace(/\.weight$/, '');
    const name = `lora_unet_${(sdxl ? original() : layer).replaceAll('.', '_')}`;
    if (side === 'B') return [{ ...source, name: `${name}.lora_up.weight` }];
    const [rank = 0] = source.shape;
    ranks.add(rank);
    return [{ ...source, name: `${name}.lora_down.weight` }, alpha(`${name}.alpha`, rank, source)];
  });
  const [rank] = ranks;
  if (rank === undefined || ranks.size > 1)
    throw invalid(path, `expected one rank, got ${[...ranks].join(', ') || 'no tensors'}`);
  return {
    tensors,
    // What tools tell the base model by.
    metadata: {
      format: 'pt',
      ss_network_module: 'networks.lora',
      ss_network_dim: String(rank),
      ss_network_alpha: String(rank),
      ...baseModel(sdxl, unet),
    },
  };
}

function baseModel(sdxl: boolean, unet: JsonObject): Record<string, string> {
  if (sdxl) return { ss_base_model_version: 'sdxl_base_v1-0', ss_v2: 'False' };
  return unet['use_linear_projection'] === true
    ? { ss_base_model_version: 'sd_v2', ss_v2: 'True' }
    : { ss_base_model_version: 'sd_v1', ss_v2: 'False' };
}

/** A number of the type of the layer's weights. */
function alpha(name: string, value: number, { dtype }: TensorSource): TensorSource {
  const bytes = Buffer.alloc(dtypeBytes.F32);
  bytes.writeFloatLE(value);
  const plain: TensorSource = { name, dtype: 'F32', shape: [], chunks: () => [bytes] };
  const type = (Object.keys(floatTypes) as (keyof typeof floatTypes)[]).find(
    (each) => floatTypes[each] === dtype,
  );
  return type === undefined ? plain : castTo(type, plain, name);
}
