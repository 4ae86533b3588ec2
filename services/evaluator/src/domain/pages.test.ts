import { describe, expect, it } from 'vitest';
import { reportHtml } from './html.js';
import { reportMarkdown } from './markdown.js';
import { linePlot, smooth, ticks } from './plot.js';
import { duration, metadataLines, reportJson, type CurvePoint, type Report } from './report.js';

const point = (step: number, generated = 0.5): CurvePoint => ({
  step,
  loss: 1 / step,
  error_real: 0.1,
  error_generated: generated,
  opponent_error_real: 0.11,
  opponent_error_generated: 0.4,
  implicit_accuracy: 0.7,
  grad_norm: 2,
  learning_rate: 1e-5,
});
const statistics = { mean: 11.7, median: 13.6, standardError: 0.43, winRate: 0.5, differenceLow: 0, differenceHigh: 0, n: 200 };
const report: Report = {
  run: {
    run_id: 'r1',
    config: { beta: 4000, note: '</pre><script>' },
    status: 'succeeded',
    best_model: 'spin1',
    warnings: ['error on real images rose <fast>'],
    timings: { encode: 12.34, 'train-spin1': 125 },
    curves: { sft: [point(1, 0), point(2, 0)], spin1: [point(1), point(2), point(3)] },
  },
  models: [
    {
      name: 'base',
      metrics: [{ metric: 'pick', statistics }],
      images: [{ fileName: '0000.png', text: 'a "red" circle', seed: '18446744073709551615' }],
    },
    {
      name: 'spin1',
      metrics: [{ metric: 'pick', statistics: { ...statistics, winRate: 0.625, differenceLow: -0.1, differenceHigh: 0.9 } }],
      images: [],
    },
  ],
};

describe('the report', () => {
  it('as JSON has every statistic of every model', () => {
    const json = JSON.parse(reportJson(report)) as {
      best_model: string;
      models: { name: string; images: string; metrics: Record<string, object> }[];
    };
    expect(json.best_model).toBe('spin1');
    expect(json.models[1]).toEqual({
      name: 'spin1',
      images: 'images/spin1',
      metrics: {
        pick: { mean: 11.7, median: 13.6, standard_error: 0.43, win_rate: 0.625, difference_low: -0.1, difference_high: 0.9, n: 200 },
      },
    });
  });

  it('as Markdown has a table per metric and the warnings', () => {
    const text = reportMarkdown(report);
    expect(text).toContain('| **spin1** | 11.700 ± 0.430 | 13.600 | 62.5 % | −0.100 to +0.900 | 200 |');
    expect(text).toContain('- error on real images rose \\<fast\\>');
  });

  it('as HTML is self-contained, escapes what it is told and shows plots and images side by side', () => {
    const html = reportHtml(report, [{ text: 'a "red" <circle>', seed: '7', images: ['data:image/png;base64,AAAA', null] }]);
    expect(html).not.toContain('<script');
    expect(html.match(/(?:src|href)="(?!data:)/g)).toBeNull();
    expect(html).not.toContain('url(');
    expect(html).toContain('a &quot;red&quot; &lt;circle&gt;');
    expect(html).toContain('<img src="data:image/png;base64,AAAA" alt="base: a &quot;red&quot; &lt;circle&gt;"');
    expect(html.match(/<svg /g)).toHaveLength(5);
    expect(html).toContain('prefers-color-scheme:dark');
    expect(html).toContain('Denoising errors, spin1');
  });

  it('stands without curves, images or scores', () => {
    const empty = { run: { ...report.run, curves: {}, timings: {}, warnings: [] }, models: [] };
    expect(reportHtml(empty, [])).toContain('No model was judged.');
    expect(reportMarkdown(empty)).toContain('# Run r1');
  });

  it('writes seeds of 64 bits digit by digit', () => {
    expect(metadataLines(report.models[0]!.images)).toBe(
      '{"file_name":"0000.png","text":"a \\"red\\" circle","seed":18446744073709551615}\n',
    );
  });

  it('says durations as people do', () => {
    expect([12.34, 187, 3840].map(duration)).toEqual(['12.3 s', '3 min 07 s', '1 h 04 min']);
  });
});

describe('plots', () => {
  it('leave gaps out, draw a flat line and nothing for nothing', () => {
    const options = { title: 't', xLabel: 'x', yLabel: 'y' };
    expect(linePlot([{ name: 'a', points: [], colour: 1 }], options)).toBe('');
    const svg = linePlot(
      [
        {
          name: 'a',
          points: [
            { x: 0, y: 1 },
            { x: 1, y: Number.NaN },
            { x: 2, y: 1 },
          ],
          colour: 1,
        },
      ],
      options,
    );
    expect(svg).not.toContain('NaN');
    expect(svg.match(/[ML]\d/g)).toHaveLength(2);
  });
  it('have round ticks', () => {
    expect(ticks([0, 100], 5)).toEqual([0, 20, 40, 60, 80, 100]);
    expect(ticks([3, 3], 5)).toEqual([3]);
  });
  it('smooth by a centred average', () => {
    expect(
      smooth(
        [1, 2, 3, 10].map((y, x) => ({ x, y })),
        3,
      ).map(({ y }) => y),
    ).toEqual([1.5, 2, 5, 6.5]);
  });
});
