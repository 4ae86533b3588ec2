/** Types of tensors that the format has and we read and write. */
export type TensorDtype =
  | 'F64'
  | 'F32'
  | 'F16'
  | 'BF16'
  | 'I64'
  | 'I32'
  | 'I16'
  | 'I8'
  | 'U8'
  | 'BOOL';

/** Bytes of one element. */
export const dtypeBytes: Readonly<Record<TensorDtype, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
};

/** Whether a name is one of these types. */
export function isDtype(name: string): name is TensorDtype {
  return Object.hasOwn(dtypeBytes, name);
}

/** Bytes of a tensor of this type and shape. */
export function tensorBytes(tensor: { dtype: TensorDtype; shape: readonly number[] }): number {
  return tensor.shape.reduce((product, size) => product * size, dtypeBytes[tensor.dtype]);
}
