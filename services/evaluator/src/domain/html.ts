/** The report as one self-contained page: no script, no network, light and dark. */
import type { RunReport, StageTiming } from '@spindle/proto';
import { judgedTrainings, training } from './html-curves.js';
import { bar, results } from './html-results.js';
import { markup, Markup, nothing } from './markup.js';
import { duration, type ModelReport, type Report } from './report.js';

/** One prompt's images, model by model; null where a model has none. */
export interface GridRow {
  text: string;
  seed: string;
  images: (string | null)[];
}

export function reportHtml(report: Report, grid: readonly GridRow[], stylesheet: string): string {
  const { run, models, config } = report;
  const sections = [
    header(report),
    warnings(run.warnings),
    results(report),
    training(run.curves),
    judgedTrainings(run.judgedTrainings),
    images(models, grid),
    timings(run.timings),
    settings(config),
  ];
  const lines = [
    markup`<!doctype html>`,
    markup`<html lang="en">${head(run, stylesheet)}`,
    markup`<body><main>`,
    ...sections.filter(({ text }) => text !== ''),
    markup`</main></body></html>`,
  ];
  return lines.map(({ text }) => `${text}\n`).join('');
}

function head({ runId }: RunReport, stylesheet: string): Markup {
  return markup`
    <head>
      <meta charset="utf-8">
      <meta name="viewport" content="width=device-width, initial-scale=1">
      <meta name="color-scheme" content="light dark">
      <title>Spindle run ${runId}</title>
      <style>${new Markup(stylesheet)}</style>
    </head>`;
}

function header({ run, models }: Report): Markup {
  const total = run.timings.reduce((sum, { seconds }) => sum + seconds, 0);
  const facts = [
    { name: 'Status', value: run.status },
    { name: 'Best model', value: run.bestModel || 'none' },
    { name: 'Models', value: models.length },
    { name: 'Time in stages', value: duration(total) },
  ];
  return markup`
    <header>
      <h1>Run <code>${run.runId}</code></h1>
      <dl>
        ${facts.map(({ name, value }) => markup`<div><dt>${name}</dt><dd>${value}</dd></div>`)}
      </dl>
    </header>`;
}

function warnings(texts: readonly string[]): Markup {
  if (texts.length === 0) return nothing;
  return markup`
    <section class="warnings">
      <h2>Warnings</h2>
      <ul>${texts.map((text) => markup`<li>${text}</li>`)}</ul>
    </section>`;
}

/** The models' images of the same prompt and seed, side by side. */
function images(models: readonly ModelReport[], grid: readonly GridRow[]): Markup {
  if (grid.length === 0) return nothing;
  return markup`
    <section>
      <h2>Same prompt, same seed</h2>
      <div class="scroll">
        <table class="grid-table">
          <thead>
            <tr><th>prompt</th>${models.map(({ name }) => markup`<th>${name}</th>`)}</tr>
          </thead>
          <tbody>${grid.map((row) => gridRow(row, models))}</tbody>
        </table>
      </div>
    </section>`;
}

function gridRow({ text, seed, images: sources }: GridRow, models: readonly ModelReport[]): Markup {
  const cells = sources.map((source, i) => {
    if (source === null) return markup`<td class="none">–</td>`;
    return markup`<td><img src="${source}" alt="${models[i]?.name ?? ''}: ${text}"></td>`;
  });
  return markup`
    <tr>
      <th scope="row">${text}<small>seed ${seed}</small></th>
      ${cells}
    </tr>`;
}

function timings(stages: readonly StageTiming[]): Markup {
  if (stages.length === 0) return nothing;
  const longest = Math.max(...stages.map(({ seconds }) => seconds), 1e-9);
  const row = ({ stage, seconds }: StageTiming): Markup => markup`
    <tr>
      <th scope="row">${stage}</th>
      <td>${bar('bar wide', seconds / longest)}${duration(seconds)}</td>
    </tr>`;
  return markup`
    <section>
      <h2>Time</h2>
      <div class="scroll">
        <table class="narrow"><tbody>${stages.map(row)}</tbody></table>
      </div>
    </section>`;
}

function settings(config: unknown): Markup {
  return markup`
    <section>
      <h2>Settings</h2>
      <details>
        <summary>The whole resolved config</summary>
        <pre>${JSON.stringify(config, null, 2)}</pre>
      </details>
    </section>`;
}
