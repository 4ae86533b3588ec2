/** A run's report as data: what report.json holds, and what the Markdown and HTML pages are drawn from. */
import type { Statistics } from './statistics.js';

export interface CurvePoint {
  step: number;
  loss: number;
  error_real: number;
  error_generated: number;
  opponent_error_real: number;
  opponent_error_generated: number;
  implicit_accuracy: number;
  grad_norm: number;
  learning_rate: number;
}

/** The run as the gateway tells it (docs/DESIGN.md, "Report data"). */
export interface RunData {
  run_id: string;
  config: unknown;
  status: string;
  best_model: string;
  warnings: string[];
  /** Stage -> seconds. */
  timings: Record<string, number>;
  /** Model -> optimiser steps. */
  curves: Record<string, CurvePoint[]>;
}

export interface ModelReport {
  name: string;
  metrics: { metric: string; statistics: Statistics }[];
  images: { fileName: string; text: string; seed: string }[];
}

export interface Report {
  run: RunData;
  models: ModelReport[];
}

export function reportJson(report: Report): string {
  const { run, models } = report;
  const value = {
    schema_version: 1,
    run_id: run.run_id,
    status: run.status,
    best_model: run.best_model,
    models: models.map(({ name, metrics }) => ({
      name,
      images: `images/${name}`,
      metrics: Object.fromEntries(metrics.map(({ metric, statistics }) => [metric, statisticsJson(statistics)])),
    })),
    warnings: run.warnings,
    timings: run.timings,
    curves: run.curves,
    config: run.config,
  };
  return `${JSON.stringify(value, null, 2)}\n`;
}

function statisticsJson(s: Statistics): Record<string, number> {
  return {
    mean: s.mean,
    median: s.median,
    standard_error: s.standardError,
    win_rate: s.winRate,
    difference_low: s.differenceLow,
    difference_high: s.differenceHigh,
    n: s.n,
  };
}

export function metadataLines(images: readonly { fileName: string; text: string; seed: string }[]): string {
  // Seeds are 64-bit: written as JSON numbers, digit by digit, because JavaScript's own would round them.
  return images
    .map(({ fileName, text, seed }) => `{"file_name":${JSON.stringify(fileName)},"text":${JSON.stringify(text)},"seed":${seed}}\n`)
    .join('');
}

/** "1 h 04 min", "3 min 07 s", "12.3 s". */
export function duration(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const two = (value: number): string => String(value).padStart(2, '0');
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

export function metricNames(models: readonly ModelReport[]): string[] {
  return [...new Set(models.flatMap((model) => model.metrics.map(({ metric }) => metric)))];
}
