/**
 * Line plots as inline SVG; colours come from the page's style sheet, so that they follow light and
 * dark.
 */
import { markup, nothing, type Markup } from './markup.js';

export interface Point {
  x: number;
  y: number;
}

export interface Series {
  name: string;
  points: readonly Point[];
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
  yRange?: Range;
}

type Range = [low: number, high: number];

/** What is drawn, in the data's units and on the paper. */
interface Frame {
  xs: Range;
  ys: Range;
  toX: (x: number) => number;
  toY: (y: number) => number;
}

const size = { width: 460, height: 260 };
/** Edges of the part with the lines. */
const edge = { left: 58, right: size.width - 14, top: 12, bottom: size.height - 38 };

export function linePlot(series: readonly Series[], options: PlotOptions): Markup {
  const points = series.flatMap((line) => finite(line.points));
  if (points.length === 0) return nothing;
  const frame = frameOf(points, options);
  const { title, reference } = options;
  return markup`
    <figure class="plot">
      <figcaption>${title}</figcaption>
      <svg viewBox="0 0 ${size.width} ${size.height}" role="img" aria-label="${title}">
        ${ticks(frame.ys, 5).map((y) => gridLine(y, frame))}
        ${ticks(frame.xs, 6).map((x) => xTick(x, frame))}
        ${horizontal('axis', String(edge.bottom))}
        ${reference === undefined ? nothing : referenceLine(reference, frame)}
        ${series.map((line) => curve(line, frame))}
        ${axisLabels(options)}
      </svg>
      <div class="legend">${series.map(legendKey)}</div>
    </figure>`;
}

function frameOf(points: readonly Point[], { yRange, reference }: PlotOptions): Frame {
  const xs = range(points.map(({ x }) => x));
  const heights = points.map(({ y }) => y);
  const ys = yRange ?? padded(range(reference ? [...heights, reference.y] : heights));
  return {
    xs,
    ys,
    toX: scale(xs, [edge.left, edge.right]),
    toY: scale(ys, [edge.bottom, edge.top]),
  };
}

function gridLine(y: number, { toY }: Frame): Markup {
  const text = { x: edge.left - 6, y: fixed(toY(y) + 3.5) };
  return markup`
    ${horizontal('grid', fixed(toY(y)))}
    <text class="tick" x="${text.x}" y="${text.y}" text-anchor="end">${label(y)}</text>`;
}

function xTick(x: number, { toX }: Frame): Markup {
  const y = edge.bottom + 16;
  return markup`
    <text class="tick" x="${fixed(toX(x))}" y="${y}" text-anchor="middle">${label(x)}</text>`;
}

function referenceLine({ y, label: meaning }: { y: number; label: string }, frame: Frame): Markup {
  const text = { x: edge.right - 2, y: fixed(frame.toY(y) - 4) };
  return markup`
    ${horizontal('reference', fixed(frame.toY(y)))}
    <text class="tick" x="${text.x}" y="${text.y}" text-anchor="end">${meaning}</text>`;
}

function horizontal(name: string, y: string): Markup {
  return markup`<line class="${name}" x1="${edge.left}" x2="${edge.right}" y1="${y}" y2="${y}"/>`;
}

function curve(line: Series, { toX, toY }: Frame): Markup {
  const points = finite(line.points);
  if (points.length === 0) return nothing;
  const path = points
    .map(({ x, y }, i) => `${i === 0 ? 'M' : 'L'}${fixed(toX(x))} ${fixed(toY(y))}`)
    .join('');
  return markup`<path class="line ${look(line)}" d="${path}"><title>${line.name}</title></path>`;
}

function axisLabels({ xLabel, yLabel }: PlotOptions): Markup {
  const middle = { x: (edge.left + edge.right) / 2, y: (edge.top + edge.bottom) / 2 };
  const turned = `translate(12 ${middle.y}) rotate(-90)`;
  return markup`
    <text class="tick" x="${middle.x}" y="${size.height - 4}" text-anchor="middle">${xLabel}</text>
    <text class="tick" transform="${turned}" text-anchor="middle">${yLabel}</text>`;
}

function legendKey(line: Series): Markup {
  return markup`<span><i class="key ${look(line)}"></i>${line.name}</span>`;
}

/** Classes of the style sheet. */
function look({ colour, dashed }: Series): string {
  return `c${colour}${dashed === true ? ' dashed' : ''}`;
}

/** Centred moving average: single steps are too noisy to read. */
export function smooth(points: readonly Point[], window: number): Point[] {
  const half = Math.floor(window / 2);
  return points.map(({ x }, i) => {
    const near = points.slice(Math.max(0, i - half), i + half + 1);
    return { x, y: near.reduce((total, point) => total + point.y, 0) / near.length };
  });
}

function finite(points: readonly Point[]): Point[] {
  return points.filter(({ y }) => Number.isFinite(y));
}

function range(values: readonly number[]): Range {
  return [
    values.reduce((a, b) => Math.min(a, b), Infinity),
    values.reduce((a, b) => Math.max(a, b), -Infinity),
  ];
}

function padded([low, high]: Range): Range {
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - margin, high + margin];
}

function scale([low, high]: Range, [from, to]: Range): (value: number) => number {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

export function ticks([low, high]: Range, about: number): number[] {
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
  const distance = Math.abs(value);
  if (distance >= 10_000 || distance < 0.001) return value.toExponential(0);
  return String(Number(value.toPrecision(4)));
}

function fixed(value: number): string {
  return String(Math.round(value * 10) / 10);
}
