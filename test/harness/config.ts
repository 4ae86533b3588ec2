import { join } from 'node:path';
import { scenes } from './files.js';

/**
 * examples/scenes/tiny-run.yaml with absolute paths, as it goes over gRPC: seconds of work, and
 * every stage in it.
 */
export function tinyConfig() {
  return {
    name: 'tiny',
    model: join(scenes, 'tiny-sd'),
    seed: 7,
    precision: 'float32',
    data: { path: join(scenes, 'train'), limit: 8 },
    objective: { beta: 4000 },
    iterations: 2,
    train: {
      steps: 4,
      batch_size: 4,
      gradient_accumulation: 2,
      learning_rate: 4e-5,
      warmup_steps: 1,
      checkpoint_steps: 1,
    },
    sampling: { scheduler: 'DDIMScheduler', steps: 2, guidance_scale: 3, shard_size: 2 },
    baselines: { sft: { steps: 2 } },
    evaluation: {
      prompts: join(scenes, 'prompts-eval.txt'),
      limit: 4,
      metrics: [
        { name: 'pickscore', kind: 'clip', model: join(scenes, 'tiny-pickscore') },
        {
          name: 'aesthetic',
          kind: 'aesthetic',
          model: join(scenes, 'tiny-pickscore'),
          head: join(scenes, 'tiny-aesthetic'),
        },
      ],
    },
    resources: { encode_shard_size: 4 },
  };
}
