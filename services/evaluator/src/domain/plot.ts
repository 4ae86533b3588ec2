/**
 * Line plots as inline SVG; colours come from the page's style sheet, so that they follow light and
 * dark.
 */
export interface Series {
  name: string;
  points: readonly { x: number; y: number }[];
  /** 1 to 6: a colour of the page's palette. */
  colour: number;
  dashed?: boolean;
}

export interface PlotOptions {
  title: string;
  xLabel: string;
  yLabel: string;
  /** A horizontal line that means something, such as chance at 0.5. */
  reference?: { y: number; label: string };
  yRange?: [number, number];
}

const size = { width: 460, height: 260, left: 58, right: 14, top: 12, bottom: 38 };

export function linePlot(series: readonly Series[], options: PlotOptions): string {
  const points = series.flatMap((line) => line.points.filter(({ y }) => Number.isFinite(y)));
  if (points.length === 0) return '';
  const xs = range(points.map(({ x }) => x));
  const ys =
    options.yRange ??
    padded(
      range([
        ...points.map(({ y }) => y),
        ...(options.reference === undefined ? [] : [options.reference.y]),
      ]),
    );
  const toX = scale(xs, [size.left, size.width - size.right]);
  const toY = scale(ys, [size.height - size.bottom, size.top]);
  const parts: string[] = [];
  for (const y of ticks(ys, 5)) {
    parts.push(
      `<line class="grid" x1="${size.left}" x2="${size.width - size.right}" y1="${fixed(toY(y))}" y2="${fixed(toY(y))}"/>`,
    );
    parts.push(
      `<text class="tick" x="${size.left - 6}" y="${fixed(toY(y) + 3.5)}" text-anchor="end">${label(y)}</text>`,
    );
  }
  for (const x of ticks(xs, 6))
    parts.push(
      `<text class="tick" x="${fixed(toX(x))}" y="${size.height - size.bottom + 16}" text-anchor="middle">${label(x)}</text>`,
    );
  parts.push(
    `<line class="axis" x1="${size.left}" x2="${size.width - size.right}" y1="${size.height - size.bottom}" y2="${size.height - size.bottom}"/>`,
  );
  if (options.reference !== undefined) {
    const y = fixed(toY(options.reference.y));
    parts.push(
      `<line class="reference" x1="${size.left}" x2="${size.width - size.right}" y1="${y}" y2="${y}"/>`,
    );
    parts.push(
      `<text class="tick" x="${size.width - size.right - 2}" y="${fixed(toY(options.reference.y) - 4)}" text-anchor="end">${escapeHtml(options.reference.label)}</text>`,
    );
  }
  for (const line of series) {
    const path = line.points
      .filter(({ y }) => Number.isFinite(y))
      .map(({ x, y }, i) => `${i === 0 ? 'M' : 'L'}${fixed(toX(x))} ${fixed(toY(y))}`)
      .join('');
    if (path !== '')
      parts.push(
        `<path class="line c${line.colour}${line.dashed === true ? ' dashed' : ''}" d="${path}"><title>${escapeHtml(line.name)}</title></path>`,
      );
  }
  parts.push(
    `<text class="tick" x="${(size.left + size.width - size.right) / 2}" y="${size.height - 4}" text-anchor="middle">${escapeHtml(options.xLabel)}</text>`,
  );
  const middle = (size.top + size.height - size.bottom) / 2;
  parts.push(
    `<text class="tick" transform="translate(12 ${middle}) rotate(-90)" text-anchor="middle">${escapeHtml(options.yLabel)}</text>`,
  );
  const legend = series
    .map(
      (line) =>
        `<span><i class="key c${line.colour}${line.dashed === true ? ' dashed' : ''}"></i>${escapeHtml(line.name)}</span>`,
    )
    .join('');
  return `<figure class="plot"><figcaption>${escapeHtml(options.title)}</figcaption><svg viewBox="0 0 ${size.width} ${size.height}" role="img" aria-label="${escapeHtml(options.title)}">${parts.join('')}</svg><div class="legend">${legend}</div></figure>`;
}

/** Centred moving average: single steps are too noisy to read. */
export function smooth(
  points: readonly { x: number; y: number }[],
  window: number,
): { x: number; y: number }[] {
  const half = Math.floor(window / 2);
  return points.map(({ x }, i) => {
    const near = points.slice(Math.max(0, i - half), i + half + 1);
    return { x, y: near.reduce((total, point) => total + point.y, 0) / near.length };
  });
}

function range(values: readonly number[]): [number, number] {
  return [
    values.reduce((a, b) => Math.min(a, b), Infinity),
    values.reduce((a, b) => Math.max(a, b), -Infinity),
  ];
}

function padded([low, high]: [number, number]): [number, number] {
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - margin, high + margin];
}

function scale(
  [low, high]: [number, number],
  [from, to]: [number, number],
): (value: number) => number {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

export function ticks([low, high]: [number, number], about: number): number[] {
  const span = high - low;
  if (!(span > 0)) return [low];
  const raw = span / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step =
    [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw) ?? raw;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

function label(value: number): string {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 10_000 || size < 0.001) return value.toExponential(0);
  return String(Number(value.toPrecision(4)));
}

function fixed(value: number): string {
  return String(Math.round(value * 10) / 10);
}

export function escapeHtml(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return text.replace(/[&<>"']/g, (character) => entities[character] ?? character);
}
