/** The calls of the sampler; its jobs come from the queue. */
import { create } from '@bufbuild/protobuf';
import { SpindleError, type ServiceHandlers } from '@spindle/kit';
import { type ArtifactStore, type WorkerState } from '@spindle/mesh';
import type { IntendedSampling } from '@spindle/models';
import {
  GetWorkerResponseSchema,
  InspectModelResponseSchema,
  PhaseTimingSchema,
  Precision,
  SampleResponseSchema,
  type SamplerService,
} from '@spindle/proto';
import { resolveSampling, type ResolvedSampling } from './domain/sampling.js';
import type { SamplerEngine } from './engine.js';
import { invalidIfThrows } from './invalid.js';
import type { Models } from './models.js';
import { draw } from './sample.js';

export interface ServerDeps {
  store: ArtifactStore;
  engine: SamplerEngine;
  models: Models;
  state: WorkerState;
  workerId: string;
}

export function createHandlers(deps: ServerDeps): ServiceHandlers<typeof SamplerService> {
  return {
    async inspectModel({ path, sampling }) {
      if (path === '')
        throw new SpindleError('INVALID_ARGUMENT', 'path: expected a model folder, got nothing');
      const report = deps.engine.inspect(
        path,
        sampling && intended(invalidIfThrows(() => resolveSampling(sampling))),
      );
      return create(InspectModelResponseSchema, {
        kind: report.kind,
        unetParameters: BigInt(report.parameters['unet'] ?? 0),
        latentChannels: report.latentChannels,
        vaeScale: report.vaeScale,
        unetScale: report.unetScale,
        sampleSize: report.sampleSize,
        textTokens: report.textTokens,
        textWidth: report.textWidth,
        predictionType: report.predictionType,
        trainTimesteps: report.trainTimesteps,
        endsInNoise: report.endsInNoise,
        scheduler: report.scheduler,
        embeddingWidth: report.embeddingWidth,
        warnings: report.warnings,
        linearLayers: report.linearLayers,
      });
    },
    async sample(request, { signal }) {
      const { images, phases } = await draw(
        { ...request, unet: request.unet, sampling: request.sampling },
        deps,
        { wantImages: true, runId: '', signal },
      );
      return create(SampleResponseSchema, {
        images,
        phases: phases.map((phase) => create(PhaseTimingSchema, phase)),
      });
    },
    async getWorker() {
      const { backend, isa, threads } = deps.engine.info;
      const { jobKey, jobsDone, jobsFailed } = deps.state;
      return create(GetWorkerResponseSchema, {
        workerId: deps.workerId,
        backend,
        isa,
        threads,
        precision: Precision.UNSPECIFIED,
        jobKey,
        jobsDone: BigInt(jobsDone),
        jobsFailed: BigInt(jobsFailed),
      });
    },
  };
}

function intended(sampling: ResolvedSampling): IntendedSampling {
  return { ...sampling, overridesJson: sampling.schedulerOverridesJson };
}
