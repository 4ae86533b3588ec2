import { expect, it } from 'vitest';
import { checkMetrics, groupByClip } from './metrics.js';

const clip = { name: 'pick', kind: 'clip', clipPath: '/c', headPath: '' };
const aesthetic = { name: 'aesthetic', kind: 'aesthetic', clipPath: '/c', headPath: '/h' };

it('groups metrics that share a CLIP model', () => {
  const other = { ...clip, name: 'other', clipPath: '/d' };
  const groups = groupByClip(checkMetrics([clip, other, aesthetic]));
  expect([...groups].map(([path, metrics]) => [path, metrics.map((metric) => metric.name)])).toEqual([
    ['/c', ['pick', 'aesthetic']],
    ['/d', ['other']],
  ]);
});

it.each([
  [[], 'metrics: expected at least one, got none'],
  [[{ ...clip, name: '' }], 'metrics[0].name: expected a name, got nothing'],
  [[clip, clip], 'metrics[1].name: expected a name of its own, got "pick" twice'],
  [[{ ...clip, kind: 'fid' }], 'metrics[0].kind: expected clip or aesthetic, got "fid"'],
  [[{ ...clip, clipPath: '' }], 'metrics[0].clip_path: expected a CLIPModel folder, got nothing'],
  [[{ ...aesthetic, headPath: '' }], "metrics[0].head_path: expected the head's folder, got nothing"],
])('refuses %j', (specs, message) => {
  expect(() => checkMetrics(specs)).toThrow(message);
});
