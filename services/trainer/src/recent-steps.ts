/**
 * The reports of a training's last steps. They go into its checkpoints and its result, so that a
 * gateway that was away while they were made learns of them: nobody takes those steps again.
 */
import { create, fromJson, toJson } from '@bufbuild/protobuf';
import { TrainStepSchema, type TrainStep } from '@spindle/proto';
import { z } from 'zod';

/** More than the connection to a gateway that stands still can hold. */
const most = 512;

/** With `report` at its end, without the timings of its phases. */
export function withReport(recent: readonly TrainStep[], report: TrainStep): TrainStep[] {
  return [...recent.slice(1 - most), create(TrainStepSchema, { ...report, phases: [] })];
}

/** As a text for a checkpoint's metadata; readReports() reads it. */
export function writeReports(recent: readonly TrainStep[]): string {
  return JSON.stringify(recent.map((step) => toJson(TrainStepSchema, step)));
}

/** Empty for a checkpoint of an older version, which has none. */
export function readReports(text: string | undefined): TrainStep[] {
  const list = z.array(z.json()).parse(JSON.parse(text ?? '[]'));
  return list.map((step) => fromJson(TrainStepSchema, step, { ignoreUnknownFields: true }));
}
