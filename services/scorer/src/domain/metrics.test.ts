import { expect, it } from 'vitest';
import { checkMetrics, groupByModel } from './metrics.js';

const clip = {
  name: 'pick',
  kind: 'clip',
  clipPath: '/c',
  headPath: '',
  tokenizerPath: '',
  fallbackTokenizerPath: '',
  preprocess: '',
  scale: 0,
  variant: '',
};
const aesthetic = { ...clip, name: 'aesthetic', kind: 'aesthetic', headPath: '/h' };

it('groups metrics that share a model and its tokenizer', () => {
  const other = { ...clip, name: 'other', clipPath: '/d' };
  const hps = { ...clip, name: 'hps', kind: 'hpsv2', preprocess: 'tensor_antialias' };
  const reward = { ...clip, name: 'reward', kind: 'image_reward' };
  const told = { ...clip, name: 'told', tokenizerPath: '/t' };
  const groups = groupByModel(checkMetrics([clip, other, aesthetic, hps, reward, told]));
  expect([...groups.values()].map((metrics) => metrics.map((metric) => metric.name))).toEqual([
    ['pick', 'aesthetic', 'hps'],
    ['other'],
    ['reward'],
    ['told'],
  ]);
});

it.each([
  [[], 'metrics: expected at least one, got none'],
  [[{ ...clip, name: '' }], 'metrics[0].name: expected a name, got nothing'],
  [[clip, clip], 'metrics[1].name: expected a name of its own, got "pick" twice'],
  [
    [{ ...clip, kind: 'fid' }],
    'metrics[0].kind: expected clip, pickscore, hpsv2, clip_score, image_reward, aesthetic, got "fid"',
  ],
  [
    [{ ...clip, clipPath: '' }],
    "metrics[0].clip_path: expected the model's folder or file, got nothing",
  ],
  [
    [{ ...aesthetic, headPath: '' }],
    "metrics[0].head_path: expected the head's folder or file, got nothing",
  ],
  [
    [{ ...clip, preprocess: 'pil' }],
    'metrics[0].preprocess: expected transformers, torchvision, tensor, tensor_antialias, got "pil"',
  ],
  [[{ ...clip, scale: -1 }], 'metrics[0].scale: expected a positive number, got -1'],
])('refuses %j', (specs, message) => {
  expect(() => checkMetrics(specs)).toThrow(message);
});
