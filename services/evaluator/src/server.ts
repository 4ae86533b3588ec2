import { create } from '@bufbuild/protobuf';
import { inSpan, type ServiceHandlers } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import {
  EvaluateResponseSchema,
  WriteReportResponseSchema,
  type EvaluatorService,
} from '@spindle/proto';
import { evaluate, toProto } from './evaluate.js';
import type { Instruments } from './instruments.js';
import { writeReport } from './write-report.js';

export function createHandlers(
  { store, root }: { store: ArtifactStore; root: string },
  instruments: Instruments,
): ServiceHandlers<typeof EvaluatorService> {
  return {
    async evaluate({ models }) {
      return create(EvaluateResponseSchema, {
        models: toProto((await evaluate(models, store)).models),
      });
    },
    async writeReport(request) {
      const started = performance.now();
      const { files, models } = await inSpan(
        'evaluator.report',
        { 'spindle.run': request.runId },
        () => writeReport(request, store, root),
      );
      instruments.reportWritten((performance.now() - started) / 1000, files.length);
      return create(WriteReportResponseSchema, { files, models: toProto(models) });
    },
  };
}
