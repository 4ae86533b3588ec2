/** The page's plots: how the trainings went, step by step. */
import {
  keptSentence,
  type JudgedTraining,
  type StepNumbers,
  type TrainingCurve,
} from '@spindle/proto';
import { markup, nothing, type Markup } from './markup.js';
import { linePlot, smooth, type PlotOptions, type Point, type Series } from './plot.js';

/** Curves are smoothed over the number of steps divided by this. */
const windows = 20;
const colours = 6;

/** Denoising errors of one model: images of a kind share a colour. */
const errorSeries: readonly ({ key: keyof StepNumbers } & Omit<Series, 'points'>)[] = [
  { key: 'errorReal', name: 'real', colour: 1 },
  { key: 'opponentErrorReal', name: "real, opponent's", colour: 1, dashed: true },
  { key: 'errorGenerated', name: 'generated', colour: 2 },
  { key: 'opponentErrorGenerated', name: "generated, opponent's", colour: 2, dashed: true },
];

/** Scores of the images that were drawn while trainings went on: a line per model. */
export function judgedTrainings(trainings: readonly JudgedTraining[]): Markup {
  const [first] = trainings;
  if (first === undefined) return nothing;
  const series = trainings.map(({ model, steps }, i) => ({
    name: model,
    points: steps.map(({ step, mean }) => ({ x: step, y: mean })),
    colour: (i % colours) + 1,
  }));
  const kept = trainings.map(keptSentence).filter((sentence) => sentence !== '');
  return markup`
    <section>
      <h2>Scores while training</h2>
      <div class="plots">
        ${linePlot(series, {
          title: `Mean ${first.metric} of the images drawn after a step`,
          xLabel: 'step',
          yLabel: first.metric,
        })}
      </div>
      <p class="note">${kept.join(' ')}</p>
    </section>`;
}

export function training(curves: readonly TrainingCurve[]): Markup {
  const models = curves.filter(({ steps }) => steps.length > 0);
  if (models.length === 0) return nothing;
  const selfPlay = models.filter(isSelfPlay);
  const plain = models.filter((curve) => !isSelfPlay(curve));
  /** One line per model, in the colour that it has in every plot. */
  const plot = (
    of: readonly TrainingCurve[],
    key: keyof StepNumbers,
    options: Omit<PlotOptions, 'xLabel'>,
  ): Markup => {
    const series = of.map((curve) => ({
      name: curve.model,
      points: pointsOf(curve, key),
      colour: (models.findIndex(({ model }) => model === curve.model) % colours) + 1,
    }));
    return linePlot(series, { xLabel: 'step', ...options });
  };
  return markup`
    <section>
      <h2>Training</h2>
      <div class="plots">
        ${plot(selfPlay, 'loss', { title: 'Loss, self-play', yLabel: 'loss' })}
        ${plot(selfPlay, 'implicitAccuracy', {
          title: 'Implicit accuracy: share of pairs told apart',
          yLabel: 'accuracy',
          yRange: [0, 1],
          reference: { y: 0.5, label: 'chance' },
        })}
        ${plot(plain, 'loss', { title: 'Loss, plain denoising', yLabel: 'loss' })}
        ${plot(selfPlay.length > 0 ? selfPlay : models, 'gradNorm', {
          title: 'Gradient norm before clipping',
          yLabel: 'norm',
        })}
        ${selfPlay.map(errors)}
      </div>
      <p class="note">
        Smoothed over a twentieth of the steps. Healthy self-play raises the error on generated
        images faster than the one on real images; a real-image error that stays above the
        opponent’s means that the model is forgetting.
      </p>
    </section>`;
}

function isSelfPlay({ steps }: TrainingCurve): boolean {
  return steps.some((step) => step.errorGenerated !== 0);
}

function errors(curve: TrainingCurve): Markup {
  return linePlot(
    errorSeries.map(({ key, ...line }) => ({ ...line, points: pointsOf(curve, key) })),
    { title: `Denoising errors, ${curve.model}`, xLabel: 'step', yLabel: 'error' },
  );
}

function pointsOf({ steps }: TrainingCurve, key: keyof StepNumbers): Point[] {
  return smooth(
    steps.map((step) => ({ x: step.step, y: step[key] })),
    Math.max(1, Math.round(steps.length / windows)),
  );
}
