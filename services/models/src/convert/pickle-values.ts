/** What a pickle can come to: plain data, names without anything behind them, and tensors. */

export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | PickleValue[]
  | PickleTuple
  | PickleDict
  | PickleGlobal
  | StorageRef
  | PickledTensor
  | PickledBytes
  | NumpyDtype
  | NumpyScalar;

export class PickleTuple {
  constructor(readonly items: readonly PickleValue[]) {}
}
export class PickleDict {
  readonly entries = new Map<PickleValue, PickleValue>();
}
/** Of a class or function; nothing stands behind it. */
export class PickleGlobal {
  constructor(readonly name: string) {}
}
export class PickledBytes {
  constructor(readonly bytes: Buffer) {}
}
/** A numpy type such as "f8": numbers of `bytes` bytes. */
export class NumpyDtype {
  constructor(
    readonly code: string,
    readonly bytes: number,
  ) {}
}
/** A number among a training's settings. */
export class NumpyScalar {
  constructor(
    readonly dtype: NumpyDtype,
    readonly bytes: Buffer,
  ) {}
}
/** Raw numbers that lie elsewhere in the archive. */
export class StorageRef {
  constructor(
    readonly type: string,
    readonly key: string,
    readonly elements: number,
    /** First element within the storage named `key`: views of older files. */
    readonly offset: number,
  ) {}
}
export class PickledTensor {
  constructor(
    readonly storage: StorageRef,
    /** In elements of the storage. */
    readonly offset: number,
    readonly shape: readonly number[],
    readonly stride: readonly number[],
  ) {}
}

/** A size or an offset. */
export function isCount(value: PickleValue | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
