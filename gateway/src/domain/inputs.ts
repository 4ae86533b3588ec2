/** What a stage is made from: who misses something of it has that made again. */
import type { Model } from './model.js';
import { initOf, modelsOf, opponentOf, trainedAs, type RunPlan } from './plan.js';
import { judgedBy, stageName, type Stage } from './stage.js';

/** What a stage, or one shard of it, is made from. */
export interface Inputs {
  /** Stages whose results are read; with `shard`, that one alone. */
  stages: string[];
  shard?: number;
  models: Model[];
}

/** What `stage` reads: results of other stages, and weights that were trained. */
export function inputsOf(plan: RunPlan, stage: Stage, shard?: number): Inputs {
  const encode = stageName({ kind: 'encode' });
  const trained = (...models: Model[]): Model[] =>
    models.map(trainedAs).filter(({ kind }) => kind !== 'base');
  switch (stage.kind) {
    case 'encode':
      return { stages: [], models: [] };
    case 'sample':
      return { stages: [encode], models: trained(stage.model) };
    case 'eval-sample':
      return { stages: [], models: trained(stage.model) };
    // Of a training that goes on: what it leaves on the way is no model yet.
    case 'judge-sample':
      return { stages: [], models: [] };
    case 'score':
    case 'judge-score':
    case 'eval-score': {
      const drawing = judgedBy(stage);
      return {
        stages: drawing === undefined ? [] : [drawing],
        ...(shard !== undefined && { shard }),
        models: [],
      };
    }
    case 'train': {
      if (stage.model.kind !== 'spin') return { stages: [encode], models: [] };
      const { iteration } = stage.model;
      const opponents = [opponentOf(plan, iteration)];
      if (iteration > 1) opponents.push(opponentOf(plan, iteration - 1));
      const drawn = new Set(opponents.map((model) => stageName({ kind: 'sample', model })));
      const judged = plan.keepIf
        ? [stageName({ kind: 'score', model: opponentOf(plan, iteration) })]
        : [];
      return {
        stages: [encode, ...drawn, ...judged],
        models: trained(initOf(iteration), ...opponents),
      };
    }
    case 'evaluate':
    case 'report':
      return {
        stages: modelsOf(plan).flatMap((model) => [
          stageName({ kind: 'eval-sample', model }),
          stageName({ kind: 'eval-score', model }),
        ]),
        // The report comes with every U-Net in the run's folder.
        models: stage.kind === 'report' ? trained(...modelsOf(plan)) : [],
      };
  }
}
