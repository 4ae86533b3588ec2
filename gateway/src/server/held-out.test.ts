import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseConfig } from '@spindle/kit';
import { localFiles } from '@spindle/data';
import { describe, expect, it } from 'vitest';
import { runConfigSchema } from '../config/schema.js';
import { readHeldOut } from './held-out.js';

const lines = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => `prompt ${from + i}`);

function read(prompts: string[], more: object = {}, select?: string[]) {
  const folder = mkdtempSync(join(tmpdir(), 'spindle-held-out-'));
  const [reported, own] = [join(folder, 'prompts.txt'), join(folder, 'select.txt')];
  writeFileSync(reported, prompts.join('\n'));
  if (select) writeFileSync(own, select.join('\n'));
  const evaluation = {
    prompts: reported,
    metrics: [{ name: 'pick', kind: 'clip', model: 'm' }],
    ...(select && { select: { prompts: own } }),
    ...more,
  };
  const config = { model: 'm', data: { path: 'd' }, evaluation };
  return readHeldOut(parseConfig(runConfigSchema, config, 'config'), localFiles);
}

describe('held-out prompts', () => {
  it('are set apart by a fifth, each in one of the two parts', async () => {
    const { prompts, select } = await read(lines(0, 23));
    expect(select).toBe(4);
    const texts = prompts.map(({ prompt }) => prompt);
    expect([...texts].sort()).toEqual(lines(0, 23).sort());
    const reported = texts.slice(0, -select);
    // The reported ones stay in their order.
    expect(lines(0, 23).filter((text) => reported.includes(text))).toEqual(reported);
  });

  it('are reported whole where there are few, or nobody judges', async () => {
    expect(await read(lines(0, 9))).toMatchObject({ select: 0 });
    expect(await read(lines(0, 50), { metrics: [] })).toMatchObject({ select: 0 });
  });

  it('of named sets are one list, each set apart by a fifth of its own', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'spindle-held-out-'));
    const [pick, parti] = [join(folder, 'pick.txt'), join(folder, 'parti.txt')];
    writeFileSync(pick, lines(0, 23).join('\n'));
    writeFileSync(parti, lines(20, 60).join('\n'));
    const alone = await read(lines(0, 23));
    const one = await read([], { prompts: { pick } });
    expect(one).toEqual({
      ...alone,
      prompts: alone.prompts.map((prompt) => ({ ...prompt, set: 'pick' })),
    });
    const { prompts, select } = await read([], {
      prompts: { pick, p2: { file: parti, limit: 12 } },
    });
    expect([prompts.length, select]).toEqual([23 + 12, 4 + 2]);
    const reported = prompts.slice(0, -select);
    const of = (set: string) => reported.filter((one) => one.set === set);
    expect([of('pick').length, of('p2').length]).toEqual([19, 10]);
    // A prompt of both is in both.
    const texts = prompts.map(({ prompt }) => prompt);
    expect(texts.filter((text) => text === 'prompt 21')).toHaveLength(2);
    await expect(read([], { prompts: { pick, p2: join(folder, 'none.txt') } })).rejects.toThrow(
      /^evaluation\.prompts\.p2: expected a file, got ".*none\.txt", which cannot be read\.$/,
    );
  });

  it('to choose by are named by their own key', async () => {
    await expect(
      read(lines(0, 50), { select: { prompts: '/nowhere/select.txt' } }),
    ).rejects.toThrow('evaluation.select.prompts: expected a file, got "/nowhere/select.txt"');
  });

  it('come from a file of their own, without those that are reported', async () => {
    const { prompts, select, warnings } = await read(lines(0, 50), {}, lines(47, 55));
    expect([prompts.length, select]).toEqual([55, 5]);
    expect(prompts.slice(-5).map(({ prompt }) => prompt)).toEqual(lines(50, 55));
    expect(warnings).toEqual([
      'evaluation.select.prompts: 3 of 8 prompts are reported too; models are chosen by the others.',
    ]);
    await expect(read(lines(0, 50), {}, lines(3, 5))).rejects.toThrow(
      /evaluation\.select\.prompts: .*expected at least one prompt that is not in/,
    );
  });
});
