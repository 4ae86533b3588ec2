/** What passes in and out of calls of every kind. */

/** Dense float32 tensor, row-major, PyTorch layout. */
export interface TensorDto {
  data: Float32Array;
  shape: number[];
}

/** A part of a call's time. */
export interface PhaseDto {
  name: string;
  /** Milliseconds after the start of the call. */
  startMs: number;
  durationMs: number;
}

/** What activations and matrices are computed in. */
export type NativePrecision = 'float32' | 'bfloat16';

/** Cancels the calls it was given to: they reject with code "CANCELLED" between steps. */
export interface CancelHandle {
  readonly __cancel: unique symbol;
}
