/** The numbers of an optimiser step, as one list: whoever shows or stores them goes by it. */
import { TrainStepSchema, type TrainStep } from '../gen/spindle/v1/trainer_service_pb.js';

/** A step without the timings of its phases: plain data, as it is stored. */
export type StepNumbers = Pick<
  TrainStep,
  { [K in keyof TrainStep]-?: TrainStep[K] extends number ? K : never }[keyof TrainStep]
>;

/** `name` is what files and tables say, `key` the property. "step" comes first. */
export const stepNumbers: readonly { name: string; key: keyof StepNumbers }[] =
  TrainStepSchema.fields
    .filter((field) => field.fieldKind === 'scalar')
    .map(({ name, localName }) => ({ name, key: localName as keyof StepNumbers }));

/** A step as it is stored. */
export function numbersOf(step: StepNumbers): StepNumbers {
  return Object.fromEntries(stepNumbers.map(({ key }) => [key, step[key]])) as StepNumbers;
}
