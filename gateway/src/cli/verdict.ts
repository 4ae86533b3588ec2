/** What a run that has ended comes to, in one sentence. */
import { RunStatus, type Run } from '@spindle/proto';

/** Empty unless the run succeeded. */
export function verdictOfRun({ status, results, bestModel }: Run): string {
  if (status !== RunStatus.SUCCEEDED) return '';
  const [base] = results;
  const [first] = base?.metrics ?? [];
  if (base === undefined || first === undefined)
    return (
      'Nobody judged the images: look at them in the report, or name judges in ' +
      'evaluation.metrics.'
    );
  const best = results.find(({ model }) => model === bestModel);
  const score = best?.metrics.find(({ metric }) => metric === first.metric);
  if (score === undefined) return '';
  if (bestModel === base.model)
    return (
      `No iteration beats the base by ${first.metric}: keep the base model; the report's warnings ` +
      'and docs/TROUBLESHOOTING.md say what to try.'
    );
  const gain =
    `${signed(score.mean - first.mean)} (95 % interval ${signed(score.differenceLow)} to ` +
    `${signed(score.differenceHigh)})`;
  if (score.differenceLow > 0)
    return `${bestModel} is better than the base by ${first.metric}: ${gain}.`;
  if (score.differenceHigh < 0)
    return `${bestModel} was chosen, but is worse than the base by ${first.metric}: ${gain}.`;
  return `${bestModel} cannot be told from the base by ${first.metric}: ${gain}.`;
}

function signed(value: number): string {
  const text = value.toPrecision(3);
  return value >= 0 ? `+${text}` : text;
}
