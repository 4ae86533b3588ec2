import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { modelPath } from './model-path.js';

const scratch = mkdtempSync(join(tmpdir(), 'model-path-'));
afterAll(() => rmSync(scratch, { recursive: true }));
mkdirSync(join(scratch, 'me@home/sd15'), { recursive: true });

it.each([
  ['sd15', 'sd15', undefined],
  ['sd15@fp16', 'sd15', 'fp16'],
  ['/m/sd15@fp16/unet', '/m/sd15/unet', 'fp16'],
  ['/m/@scope/sd15', '/m/@scope/sd15', undefined],
  ['/m/@scope/sd15@non_ema/unet', '/m/@scope/sd15/unet', 'non_ema'],
  [join(scratch, 'me@home/sd15'), join(scratch, 'me@home/sd15'), undefined],
  [join(scratch, 'me@home/other'), join(scratch, 'me@home/other'), undefined],
  [join(scratch, 'me@home/sd15@fp16'), join(scratch, 'me@home/sd15'), 'fp16'],
])('%s', (path, directory, variant) => {
  expect(modelPath(path)).toEqual({ directory, variant });
});
