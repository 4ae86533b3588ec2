import { readFileSync } from 'node:fs';
import { create } from '@bufbuild/protobuf';
import { RunReportSchema } from '@spindle/proto';
import { describe, expect, it } from 'vitest';
import { reportHtml } from './html.js';
import { reportMarkdown } from './markdown.js';
import { linePlot, smooth, ticks } from './plot.js';
import { duration, metadataLines, reportJson, scoreLines, type Report } from './report.js';
import type { Statistics } from './statistics.js';

const stylesheet = readFileSync(new URL('../../assets/report.css', import.meta.url), 'utf8');
const point = (step: number, errorGenerated = 0.5) => ({
  ...{ step, loss: 1 / step, errorReal: 0.1, errorGenerated, opponentErrorReal: 0.11 },
  ...{ opponentErrorGenerated: 0.4, implicitAccuracy: 0.7, gradNorm: 2, learningRate: 1e-5 },
});
const statistics: Statistics = {
  mean: 11.7,
  meanLow: 11.2,
  meanHigh: 12.1,
  median: 13.6,
  standardError: 0.43,
  winRate: 0.5,
  winRateLow: 0.5,
  winRateHigh: 0.5,
  winRateTiesLose: 0,
  difference: 0,
  differenceLow: 0,
  differenceHigh: 0,
  pValue: 1,
  pCorrected: 1,
  verdict: 'undecided',
  n: 200,
  images: 400,
  bestOf: null,
};
const against = {
  ...{ winRate: 0.625, winRateLow: 0.55, winRateHigh: 0.69, winRateTiesLose: 0.6 },
  ...{
    difference: 0.4,
    differenceLow: -0.1,
    differenceHigh: 0.9,
    pValue: 0.12,
    pCorrected: 0.24,
    verdict: 'undecided' as const,
  },
};
const report: Report = {
  run: create(RunReportSchema, {
    runId: 'r1',
    status: 'succeeded',
    bestModel: 'spin1',
    warnings: ['error on real images rose <fast>'],
    timings: [
      { stage: 'encode', seconds: 12.34 },
      { stage: 'train-spin1', seconds: 125 },
    ],
    judgedTrainings: [
      {
        ...{ model: 'spin1', metric: 'pick', keptStep: 50, keepsBest: true },
        steps: [
          { step: 50, mean: 2.25, standardError: 0.125, n: 16 },
          { step: 100, mean: 2, standardError: 0.25, n: 16 },
        ],
      },
    ],
    curves: [
      { model: 'sft', steps: [point(1, 0), point(2, 0)] },
      { model: 'spin1', steps: [point(1), point(2), point(3)] },
    ],
  }),
  config: { beta: 4000, note: '</pre><script>' },
  models: [
    {
      name: 'base',
      metrics: [
        { metric: 'pick', statistics, selection: { mean: 1.25, n: 40 }, categories: [], sets: [] },
      ],
      images: [{ fileName: '0000.png', text: 'a "red" circle', seed: '18446744073709551615' }],
    },
    {
      name: 'spin1',
      metrics: [
        {
          metric: 'pick',
          selection: { mean: 2.5, n: 40 },
          statistics: {
            ...statistics,
            ...against,
            bestOf: {
              ...against,
              images: 2,
              mean: 12.5,
              pValue: 0.0002,
              pCorrected: 0.0002,
              verdict: 'better',
            },
          },
          categories: [{ category: 'anime', statistics: { ...statistics, n: 50 } }],
          sets: [],
        },
      ],
      images: [],
    },
  ],
  judges: {
    pick: {
      kind: 'pickscore',
      files: [{ name: 'model.safetensors', digest: 'sha256:ab' }],
      variant: 'CLIP ViT 1280x32',
      scale: '100 · cosine',
      preprocess: 'transformers',
    },
  },
  best: [{ metric: 'pick', best: 'spin1', model: 'base', ...against }],
  chosen: {
    n: 200,
    imagesPerPrompt: 5,
    averaged: ['pick', 'reward'],
    tables: [
      {
        metric: null,
        models: ['base', 'spin1'].map((model) => ({ ...statistics, model })),
        pairs: [{ model: 'base', other: 'spin1', ...against }],
      },
    ],
  },
  chosenInSets: [],
};

describe('the report', () => {
  it('as JSON has every statistic of every model', () => {
    const json = JSON.parse(reportJson(report)) as {
      best_model: string;
      models: { name: string; images: string; metrics: Record<string, object> }[];
      judges: Record<string, object>;
      best_against: object[];
    };
    expect(json.best_model).toBe('spin1');
    expect(json.models[1]).toEqual({
      name: 'spin1',
      images: 'images/spin1',
      metrics: {
        pick: {
          ...{
            mean: 11.7,
            mean_low: 11.2,
            mean_high: 12.1,
            median: 13.6,
            standard_error: 0.43,
            n: 200,
            images: 400,
          },
          ...{ win_rate: 0.625, win_rate_low: 0.55, win_rate_high: 0.69, win_rate_ties_lose: 0.6 },
          ...{
            difference: 0.4,
            difference_low: -0.1,
            difference_high: 0.9,
            p_value: 0.12,
            p_corrected: 0.24,
            verdict: 'undecided',
          },
          select: { mean: 2.5, n: 40 },
          best_of: expect.objectContaining({ images: 2, mean: 12.5, verdict: 'better' }) as object,
          categories: { anime: expect.objectContaining({ n: 50, win_rate: 0.5 }) as object },
        },
      },
    });
    expect(json.judges['pick']).toMatchObject({
      kind: 'pickscore',
      files: [{ digest: 'sha256:ab' }],
      scale: '100 · cosine',
    });
    expect(json.best_against).toEqual([
      expect.objectContaining({ metric: 'pick', best: 'spin1', model: 'base', p_value: 0.12 }),
    ]);
  });

  it('as Markdown has a table per metric and the warnings', () => {
    const text = reportMarkdown(report);
    expect(text).toContain(
      '| **spin1** | 11.700 (11.200 to 12.100) ± 0.430 | 13.600 | 62.5 % (55.0 to 69.0) | 60.0 % | +0.400 (−0.100 to +0.900) | not told apart (p = 0.12, corrected 0.24) | 200 |',
    );
    expect(text).toContain('| **spin1**, best of 2 | 12.500 |  | 62.5 %');
    expect(text).toContain('better (p < 0.001) | 200 |');
    expect(text).toMatch(/\| spin1, anime \| .* \| 50 \|/);
    expect(text).toContain(
      'Judge: pickscore; CLIP ViT 1280x32; 100 · cosine; preprocessing: transformers; model.safetensors sha256:ab',
    );
    expect(text).toContain(
      'By pick, spin1 has the best mean. Against base: +0.400 (95 % −0.100 to +0.900), not told apart (p = 0.12, corrected 0.24).',
    );
    expect(text).toContain(
      'Models are chosen by pick on 40 other prompts, which no table has: base 1.250, spin1 2.500.',
    );
    expect(text).toContain('Better and worse hold at 5 % after it.');
    expect(text).toContain('- error on real images rose \\<fast\\>');
  });

  it('as HTML is self-contained, escapes what it is told and shows plots and images side by side', () => {
    const html = reportHtml(
      report,
      [{ text: 'a "red" <circle>', seed: '7', images: ['data:image/png;base64,AAAA', null] }],
      stylesheet,
    );
    expect(html).not.toContain('<script');
    expect(html.match(/(?:src|href)="(?!data:)/g)).toBeNull();
    expect(html).not.toContain('url(');
    expect(html).toContain('a &quot;red&quot; &lt;circle&gt;');
    expect(html).toContain(
      '<img src="data:image/png;base64,AAAA" alt="base: a &quot;red&quot; &lt;circle&gt;"',
    );
    expect(html.match(/<svg /g)).toHaveLength(6);
    expect(html).toContain('prefers-color-scheme: dark');
    expect(html).toContain('Denoising errors, spin1');
    expect(html).toContain('Judge: pickscore; CLIP ViT 1280x32');
    expect(html).toContain('not told apart (p = 0.12, corrected 0.24)');
  });

  it('stands without curves, images or scores', () => {
    const empty = {
      run: { ...report.run, curves: [], timings: [], warnings: [] },
      config: {},
      models: [],
      judges: {},
      best: [],
      chosen: null,
      chosenInSets: [],
    };
    expect(reportHtml(empty, [], stylesheet)).toContain('No model was judged.');
    expect(reportMarkdown(empty)).toContain('# Run r1');
  });

  it('has the win rates of every model over every other, both ways', () => {
    const text = reportMarkdown(report);
    expect(text).toContain('### average of the judges');
    expect(text).toContain('| model | mean (95 %) | median | over base | over spin1 |');
    expect(text).toContain('13.600 | – | 62.5 % (55.0 to 69.0) |');
    expect(text).toContain('13.600 | 37.5 % (31.0 to 45.0) | – |');
    expect(reportHtml(report, [], stylesheet)).toContain(
      '<td>37.5 % <small>31.0 to 45.0</small></td>',
    );
    expect(JSON.parse(reportJson(report))).toMatchObject({
      schema_version: 1,
      chosen: {
        n: 200,
        images_per_prompt: 5,
        tables: [{ metric: null, pairs: [{ win_rate: 0.625 }] }],
      },
    });
  });

  it('has a table of each named set of prompts, and one image per prompt of each', () => {
    const [base, spin] = report.models;
    if (base === undefined || spin === undefined || report.chosen === null) throw new Error('none');
    const withSets = (model: typeof base, mean: number) => ({
      ...model,
      metrics: model.metrics.map((metric) => ({
        ...metric,
        sets: [{ set: 'parti', statistics: { ...metric.statistics, mean, bestOf: null } }],
      })),
    });
    const named = {
      ...report,
      models: [withSets(base, 7.125), withSets(spin, 8.25)],
      chosenInSets: [{ set: 'parti', chosen: { ...report.chosen, n: 31 } }],
    };
    const text = reportMarkdown(named);
    expect(text).toMatch(
      /### pick, parti\n\n\| model .*\n.*\n\| base \| 7\.125 .*\n\| spin1 \| 8\.250/,
    );
    expect(text).toMatch(/## One image per prompt, parti\n\n.*\(31 prompts\)/);
    const html = reportHtml(named, [], stylesheet);
    expect(html).toContain('<h4>pick, parti</h4>');
    expect(html).toContain('<h2>One image per prompt, parti</h2>');
    expect(JSON.parse(reportJson(named))).toMatchObject({
      models: [{}, { metrics: { pick: { sets: { parti: { mean: 8.25 } } } } }],
      chosen: { n: 200, average_of: ['pick', 'reward'], sets: { parti: { n: 31 } } },
    });
    // Reports without named sets are as they were.
    expect(reportJson(report)).not.toContain('"sets"');
  });

  it('writes seeds of 64 bits digit by digit', () => {
    expect(metadataLines(report.models[0]!.images)).toBe(
      '{"file_name":"0000.png","text":"a \\"red\\" circle","seed":18446744073709551615}\n',
    );
  });

  it('writes a line of scores per image', () => {
    const item = {
      prompt: 3,
      text: 'a "b"',
      category: '',
      set: '',
      seed: '18446744073709551615',
      scores: { pick: 1.5, reward: -2 },
    };
    expect(
      scoreLines([
        { name: 'base', items: [item, { ...item, category: 'anime', set: 'hpd', seed: '1' }] },
      ]),
    ).toBe(
      '{"model":"base","prompt_index":3,"prompt":"a \\"b\\"","seed":18446744073709551615,"scores":{"pick":1.5,"reward":-2}}\n' +
        '{"model":"base","prompt_index":3,"prompt":"a \\"b\\"","category":"anime","set":"hpd","seed":1,"scores":{"pick":1.5,"reward":-2}}\n',
    );
  });

  it('says durations as people do', () => {
    expect([12.34, 187, 3840].map(duration)).toEqual(['12.3 s', '3 min 07 s', '1 h 04 min']);
  });
});

describe('plots', () => {
  it('leave gaps out, draw a flat line and nothing for nothing', () => {
    const options = { title: 't', xLabel: 'x', yLabel: 'y' };
    expect(linePlot([{ name: 'a', points: [], colour: 1 }], options).text).toBe('');
    const { text: svg } = linePlot(
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

describe('scores while training', () => {
  const kept =
    'spin1 is what step 50 left, with the best mean by pick (2.250 ± 0.125) of 2 judged steps.';

  it('are data, a table and a plot, with the step that was kept', () => {
    const { judged_trainings: judged } = JSON.parse(reportJson(report)) as Record<string, unknown>;
    expect(judged).toEqual([
      {
        ...{ model: 'spin1', metric: 'pick', keep: 'best', kept_step: 50 },
        steps: [
          { step: 50, mean: 2.25, standard_error: 0.125, n: 16 },
          { step: 100, mean: 2, standard_error: 0.25, n: 16 },
        ],
      },
    ]);
    const markdown = reportMarkdown(report);
    expect(markdown).toContain(kept);
    expect(markdown).toContain('| **50** | 2.250 ± 0.125 | 16 |\n| 100 | 2.000 ± 0.250 | 16 |');
    const html = reportHtml(report, [], stylesheet);
    expect(html).toContain(kept);
    expect(html).toContain('Mean pick of the images drawn after a step');
  });

  it('are not spoken of where nothing was judged', () => {
    const run = create(RunReportSchema, { ...report.run, judgedTrainings: [] });
    for (const text of [
      reportJson({ ...report, run }),
      reportMarkdown({ ...report, run }),
      reportHtml({ ...report, run }, [], stylesheet),
    ])
      expect(text).not.toMatch(/judged_trainings|Scores while training/);
  });
});
