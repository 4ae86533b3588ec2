/** The status page: one run at a time, updated by server-sent events. */
import { colorOf, drawChart, short } from './charts.js';
import { updateGrid } from './grid.js';

const $ = (id) => document.getElementById(id);
const state = {
  ...{ run: null, training: {}, source: null, runId: '' },
  ...{ redraw: false, imagesAt: '', judged: '' },
};

/** Older runs are listed by `spindle ls`. */
const shownRuns = 30;
const marks = {
  done: '✓',
  running: '●',
  paused: '‖',
  stopped: '■',
  failed: '✕',
  skipped: '–',
  waiting: '○',
};

setTheme(
  localStorage.getItem('theme') ??
    (window.matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'),
);
$('theme').addEventListener('click', () =>
  setTheme(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark'),
);
window.addEventListener('hashchange', () => open(location.hash.slice(1)));
await listRuns();
setInterval(listRuns, 5000);

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem('theme', theme);
}

async function listRuns() {
  const response = await fetch('/api/runs').catch(() => null);
  if (response?.status === 503) return setLive(false, 'waiting for NATS');
  if (response?.status === 401) return setLive(false, 'open the link of "npx spindle page"');
  if (!response?.ok) return setLive(false);
  const { runs } = await response.json();
  $('empty').hidden = runs.length > 0;
  $('main').hidden = runs.length === 0;
  const wanted = location.hash.slice(1);
  if (state.runId === '' && runs.length > 0)
    open(runs.some((run) => run.runId === wanted) ? wanted : runs[0].runId);
  $('runs').replaceChildren(...runs.slice(0, shownRuns).map(runLink));
}

function runLink({ runId, status, reason }) {
  const link = node('a', statusText(status), runId);
  link.href = `#${runId}`;
  link.title = [statusText(status), reason].filter(Boolean).join(': ');
  link.setAttribute('aria-current', String(runId === state.runId));
  return link;
}

async function open(runId) {
  if (runId === state.runId) return;
  state.source?.close();
  Object.assign(state, { runId, run: null, training: {}, imagesAt: '', judged: '' });
  history.replaceState(null, '', `#${runId}`);
  for (const link of $('runs').children)
    link.setAttribute('aria-current', String(link.textContent === runId));
  const response = await fetch(`/api/runs/${encodeURIComponent(runId)}`).catch(() => null);
  if (!response?.ok || state.runId !== runId) return;
  const details = await response.json();
  state.training = details.training;
  showWorkers(details);
  take(details.run);
  drawTraining();
  const source = new EventSource(`/api/runs/${encodeURIComponent(runId)}/events`);
  state.source = source;
  source.addEventListener('open', () => setLive(true));
  source.addEventListener('error', () => setLive(false));
  source.addEventListener('run', (event) => take(JSON.parse(event.data)));
  source.addEventListener('workers', (event) => showWorkers(JSON.parse(event.data)));
  source.addEventListener('step', (event) => {
    const step = JSON.parse(event.data);
    const steps = (state.training[step.model] ??= []);
    if (!steps.some((known) => known.step === step.step)) steps.push(step);
    scheduleTraining();
  });
}

function setLive(live, otherwise = 'not connected') {
  $('connection').textContent = live ? 'live' : otherwise;
  $('connection').classList.toggle('live', live);
}

function take(run) {
  state.run = run;
  const status = statusText(run.status);
  document.title = `${run.runId} · ${status}`;
  $('title').textContent = run.runId;
  $('badge').textContent = status;
  $('badge').className = `badge ${status}`;
  $('reason').textContent = run.reason;
  $('reason').hidden = run.reason === '';
  const over = ['succeeded', 'failed', 'cancelled'].includes(status);
  const until = over ? Date.parse(run.updatedAt) : Date.now();
  $('elapsed').textContent = duration((until - Date.parse(run.createdAt)) / 1000);
  $('eta').textContent = over ? '–' : duration(run.etaSeconds);
  $('best').textContent = run.bestModel || '–';
  showStages(run);
  showNotices(run);
  showResults(run);
  const judged = JSON.stringify(run.judgedTrainings ?? []);
  if (judged !== state.judged) {
    state.judged = judged;
    scheduleTraining();
  }
  $('config').textContent = JSON.stringify(JSON.parse(run.configJson), null, 2);
  const drawn = run.stages
    .filter((stage) => stage.stage.startsWith('eval-sample'))
    .map((stage) => stage.done)
    .join();
  if (drawn !== state.imagesAt) {
    state.imagesAt = drawn;
    updateGrid($('grid'), run.runId);
  }
}

function showStages(run) {
  const rows = [];
  let group = '';
  let weight = 0;
  let done = 0;
  for (const stage of inGroups(run.stages)) {
    const share = stage.total > 0 ? stage.done / stage.total : 0;
    weight += 1;
    done += stage.state === 'done' || stage.state === 'skipped' ? 1 : share;
    const own = groupOf(stage.stage);
    if (own !== group) rows.push(node('div', 'group', own));
    group = own;
    const row = node('div', `stage ${stage.state}`);
    const bar = node('div', 'progress');
    const fill = node('span');
    fill.style.width = `${(100 * (stage.state === 'done' ? 1 : share)).toFixed(1)}%`;
    bar.append(fill);
    const mark = node('span', 'mark', marks[stage.state] ?? '');
    mark.title = stage.state;
    row.append(
      mark,
      node('span', 'name', labelOf(stage.stage)),
      bar,
      node('span', 'numbers', numbersOf(stage)),
    );
    rows.push(row);
  }
  $('stages').replaceChildren(...rows);
  $('total').style.width = `${((100 * done) / Math.max(1, weight)).toFixed(1)}%`;
}

/** Everything of a model together, in the order in which models come. */
function inGroups(stages) {
  const place = (group) =>
    ['Data', 'Baseline', 'Base model'].indexOf(group) + 1 ||
    (group === 'Report' ? 1e6 : 10 + Number(group.replace('Iteration ', '')));
  return stages
    .map((stage, i) => ({
      stage,
      at: place(groupOf(stage.stage)),
      own: stage.stage.startsWith('sample') ? -1 : i,
    }))
    .sort((a, b) => a.at - b.at || a.own - b.own)
    .map(({ stage }) => stage);
}

function groupOf(stage) {
  if (stage === 'encode') return 'Data';
  if (stage === 'report') return 'Report';
  if (stage.endsWith('sft') || stage.endsWith('dpo')) return 'Baseline';
  const model = stage.slice(stage.lastIndexOf('-') + 1);
  if (stage.startsWith('sample-'))
    return `Iteration ${model === 'base' ? 1 : Number(model.replace(/spin|ema/, '')) + 1}`;
  return model === 'base' ? 'Base model' : `Iteration ${model.replace('spin', '')}`;
}

function labelOf(stage) {
  const model = stage.slice(stage.lastIndexOf('-') + 1);
  if (stage.startsWith('judge-sample')) return 'draw while it trains';
  if (stage.startsWith('judge-score')) return 'judge while it trains';
  if (stage.startsWith('eval-sample')) return 'draw evaluation images';
  if (stage.startsWith('eval-score')) return 'judge images';
  if (stage.startsWith('sample')) return `draw with opponent ${model}`;
  if (stage.startsWith('train')) return stage;
  return stage === 'encode' ? 'encode images' : 'write report';
}

function numbersOf(stage) {
  const parts = [`${stage.done}/${stage.total}`];
  if (stage.state === 'running' && stage.rate > 0)
    parts.push(
      stage.rate >= 1 ? `${stage.rate.toFixed(1)}/s` : `${(1 / stage.rate).toFixed(1)} s each`,
    );
  if (stage.state === 'running' && stage.etaSeconds >= 0)
    parts.push(`${duration(stage.etaSeconds)} left`);
  if (stage.state === 'done') parts.push(duration(stage.seconds));
  return stage.state === 'waiting' || stage.state === 'skipped' ? stage.state : parts.join(' · ');
}

function showNotices(run) {
  const items = [
    ...run.deadJobs.map((job) =>
      node('li', 'dead', `Dead job ${job.key} (${job.attempts} attempts): ${job.reason}`),
    ),
    ...run.warnings.map((warning) => node('li', '', warning)),
  ];
  const list = node('ul');
  list.append(...items);
  $('notices').hidden = items.length === 0;
  $('notices').replaceChildren(list);
}

function showResults(run) {
  if (run.results.length === 0)
    return $('results').replaceChildren(
      node('p', 'hint', 'Scores appear once the first model is evaluated.'),
    );
  const metrics = [
    ...new Set(run.results.flatMap((model) => model.metrics.map((metric) => metric.metric))),
  ];
  const table = node('table');
  const head = table.createTHead().insertRow();
  head.append(
    node('th', '', 'model'),
    ...metrics.flatMap((metric) =>
      [`${metric} mean`, 'median', 'win rate vs. base'].map((text) => node('th', '', text)),
    ),
    node('th', '', 'images'),
  );
  const body = table.createTBody();
  for (const model of run.results) {
    const row = body.insertRow();
    row.className = model.model === run.bestModel ? 'best' : '';
    const name = node('td', '', '');
    name.append(swatch(model.model), `${model.model}${model.model === run.bestModel ? ' ★' : ''}`);
    row.append(name);
    for (const metric of metrics) {
      const m = model.metrics.find((candidate) => candidate.metric === metric);
      const texts = m
        ? [
            `${m.mean.toFixed(3)} ± ${m.standardError.toFixed(3)}`,
            m.median.toFixed(3),
            model === run.results[0] ? '–' : `${(100 * m.winRate).toFixed(1)} %`,
          ]
        : ['', '', ''];
      row.append(...texts.map((text) => node('td', '', text)));
    }
    row.append(node('td', '', String(model.metrics[0]?.n ?? '')));
  }
  $('results').replaceChildren(table);
}

function scheduleTraining() {
  if (state.redraw) return;
  state.redraw = true;
  requestAnimationFrame(() => {
    state.redraw = false;
    drawTraining();
  });
}

function drawTraining() {
  const models = Object.entries(state.training).filter(([, steps]) => steps.length > 0);
  const legend = models.map(([model]) => {
    const entry = node('span', '', '');
    entry.append(swatch(model), model);
    return entry;
  });
  $('legend').replaceChildren(...legend);
  if (models.length === 0)
    return $('charts').replaceChildren(
      node('p', 'hint', 'Plots appear with the first optimiser step.'),
    );
  const spin = models.filter(([model]) => model !== 'sft');
  const series = (list, key, extra = {}) =>
    list.map(([model, steps]) => ({
      name: model,
      model,
      points: steps.map((step) => [step.step, step[key]]),
      ...extra,
    }));
  const host = node('div', 'charts');
  if (spin.length > 0) {
    drawChart(host, { title: 'Loss', series: series(spin, 'loss') });
    drawChart(host, {
      title: 'Implicit accuracy (share of pairs with a positive logit)',
      series: series(spin, 'implicitAccuracy'),
      low: 0,
      high: 1,
    });
    const gap = spin.map(([model, steps]) => ({
      name: model,
      model,
      points: steps.map((step) => [step.step, step.errorReal - step.opponentErrorReal]),
    }));
    drawChart(host, {
      title: "Error on real images minus the opponent's (staying above 0: drifting from the data)",
      series: gap,
    });
    const errors = [
      ...series(spin, 'errorReal'),
      ...series(spin, 'errorGenerated', { dash: true }).map((one) => ({
        ...one,
        name: `${one.name} generated`,
      })),
    ];
    drawChart(host, {
      title: 'Error on real (solid) and generated images (dashed)',
      series: errors,
    });
  }
  drawJudged(host);
  const baseline = models.filter(([model]) => model === 'sft');
  if (baseline.length > 0)
    drawChart(host, { title: 'Baseline: denoising loss', series: series(baseline, 'loss') });
  const [last] = models.slice(-1);
  const step = last?.[1].slice(-1)[0];
  if (step)
    host.prepend(
      node(
        'p',
        'hint',
        `${last[0]} step ${step.step}: loss ${short(step.loss)}, gradient norm ${short(step.gradNorm)}, learning rate ${short(step.learningRate)}`,
      ),
    );
  $('charts').replaceChildren(...host.childNodes);
}

/** Scores of the images that were drawn while trainings went on. */
function drawJudged(host) {
  const judged = state.run?.judgedTrainings ?? [];
  if (judged.length === 0) return;
  drawChart(host, {
    title: `Mean ${judged[0].metric} of the images drawn after a step`,
    plain: true,
    series: judged.map(({ model, steps }) => ({
      name: model,
      model,
      points: steps.map(({ step, mean }) => [step, Number(mean)]),
    })),
  });
}

function showWorkers({ workers, queues }) {
  const table = node('table');
  const head = table.createTHead().insertRow();
  head.append(
    ...['worker', 'job in hand', 'done', 'failed', 'seen'].map((text) => node('th', '', text)),
  );
  const body = table.createTBody();
  for (const worker of workers) {
    const row = body.insertRow();
    const seen = worker.at ? `${duration((Date.now() - Date.parse(worker.at)) / 1000)} ago` : '';
    row.append(
      ...[
        worker.worker ?? worker.key,
        worker.job || 'idle',
        worker.jobsDone ?? '',
        worker.jobsFailed ?? '',
        seen,
      ].map((text) => node('td', '', String(text))),
    );
  }
  const lines = Object.entries(queues ?? {}).map(
    ([kind, depth]) => `${kind}: ${depth.pending} waiting, ${depth.inFlight} in hand`,
  );
  const queue = node(
    'p',
    'hint',
    lines.length > 0 ? `Queue — ${lines.join(' · ')}` : 'The queue cannot be reached.',
  );
  $('workers').replaceChildren(
    ...(workers.length > 0 ? [table] : [node('p', 'hint', 'No worker has been seen.')]),
    queue,
  );
}

function swatch(model) {
  const mark = node('span', 'swatch');
  mark.style.background = colorOf(model);
  return mark;
}

function statusText(status) {
  return status.replace('RUN_STATUS_', '').toLowerCase();
}

function duration(seconds) {
  if (!(seconds >= 0)) return '?';
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, '0')} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

function node(name, className = '', text = '') {
  const element = document.createElement(name);
  if (className !== '') element.className = className;
  if (text !== '') element.textContent = text;
  return element;
}
