/** Line plots as inline SVG. */
const svgNamespace = 'http://www.w3.org/2000/svg';
const size = { width: 560, height: 170, left: 46, right: 10, top: 8, bottom: 22 };

/** Colour of a model, the same everywhere on the page. */
export function colorOf(model) {
  if (model === 'base') return 'var(--m0)';
  if (model === 'sft') return 'var(--m1)';
  if (model === 'dpo') return 'var(--m7)';
  return `var(--m${2 + ((Number(model.replace('spin', '')) - 1) % 6)})`;
}

/**
 * @param {HTMLElement} host
 * @param {{title: string, series: {name: string, model: string, dash?: boolean, points: [number,
 * number][]}[], low?: number, high?: number, plain?: boolean}} plot
 */
export function drawChart(host, plot) {
  const figure = document.createElement('figure');
  figure.className = 'chart';
  const caption = document.createElement('figcaption');
  caption.textContent = plot.title;
  const svg = element('svg', {
    viewBox: `0 0 ${size.width} ${size.height}`,
    role: 'img',
    'aria-label': plot.title,
  });
  const points = plot.series
    .flatMap((series) => series.points)
    .filter(([, y]) => Number.isFinite(y));
  if (points.length > 0) drawLines(svg, plot, points);
  figure.append(caption, svg);
  host.append(figure);
  if (points.length > 0) addTip(figure, svg, plot);
}

function drawLines(svg, plot, points) {
  const { x, y, ticks, maxX } = scales(plot, points);
  for (const tick of ticks) {
    svg.append(
      element('line', {
        class: 'axis',
        x1: size.left,
        x2: size.width - size.right,
        y1: y(tick),
        y2: y(tick),
      }),
    );
    svg.append(text(size.left - 6, y(tick) + 4, short(tick), 'end'));
  }
  svg.append(
    text(size.left, size.height - 6, '1', 'start'),
    text(size.width - size.right, size.height - 6, `step ${maxX}`, 'end'),
  );
  for (const series of plot.series) {
    const color = colorOf(series.model);
    const finite = series.points.filter(([, value]) => Number.isFinite(value));
    const raw = path(finite, x, y);
    // A few scores are shown as they are; the losses of many steps need a moving average.
    const smooth = plot.plain ? raw : path(smoothed(finite), x, y);
    // The measured values stay visible behind their moving average.
    const faint = element('path', {
      d: raw,
      fill: 'none',
      'stroke-width': 1,
      opacity: series.dash ? 0 : 0.28,
    });
    const line = element('path', {
      d: smooth,
      fill: 'none',
      'stroke-width': 2,
      'stroke-linejoin': 'round',
      ...(series.dash && { class: 'dash' }),
    });
    for (const drawn of [faint, line]) drawn.style.stroke = color;
    svg.append(faint, line);
  }
}

function scales(plot, points) {
  const maxX = Math.max(2, ...points.map(([step]) => step));
  const values = points.map(([, value]) => value).sort((a, b) => a - b);
  // One early spike must not flatten the rest.
  const high = plot.high ?? values[Math.floor((values.length - 1) * 0.99)] * 1.05;
  let low = plot.low ?? values[Math.floor((values.length - 1) * 0.01)];
  if (plot.low === undefined) low -= Math.abs(high - low) * 0.05;
  const span = high - low || Math.abs(high) || 1;
  const x = (step) => size.left + ((step - 1) / (maxX - 1)) * (size.width - size.left - size.right);
  const y = (value) => {
    const share = Math.min(1, Math.max(0, (value - low) / span));
    return size.height - size.bottom - share * (size.height - size.top - size.bottom);
  };
  return { x, y, maxX, ticks: ticksOf(low, low + span) };
}

function ticksOf(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step =
    [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough) ??
    rough;
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step)
    ticks.push(tick);
  return ticks;
}

/** Exponential moving average over about ten points. */
function smoothed(points) {
  let mean = null;
  return points.map(([step, value]) => {
    mean = mean === null ? value : mean * 0.82 + value * 0.18;
    return [step, mean];
  });
}

function path(points, x, y) {
  return points
    .map(([step, value], i) => `${i === 0 ? 'M' : 'L'}${x(step).toFixed(1)} ${y(value).toFixed(1)}`)
    .join('');
}

function addTip(figure, svg, plot) {
  const tip = document.createElement('div');
  tip.className = 'tip';
  tip.hidden = true;
  figure.append(tip);
  const maxX = Math.max(2, ...plot.series.flatMap((series) => series.points.map(([step]) => step)));
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * size.width;
    const step = 1 + ((at - size.left) / (size.width - size.left - size.right)) * (maxX - 1);
    const parts = plot.series.flatMap((series) => {
      const nearest = series.points.reduce(
        (best, point) =>
          best === null || Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best,
        null,
      );
      return nearest ? [`${series.name} ${short(nearest[1])}`] : [];
    });
    tip.textContent = `step ${Math.max(1, Math.round(step))}: ${parts.join(' · ')}`;
    tip.hidden = false;
  });
  svg.addEventListener('pointerleave', () => {
    tip.hidden = true;
  });
}

export function short(value) {
  if (!Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 100_000)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

function text(x, y, content, anchor) {
  const node = element('text', { x, y, 'text-anchor': anchor });
  node.textContent = content;
  return node;
}

function element(name, attributes) {
  const node = document.createElementNS(svgNamespace, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  return node;
}
