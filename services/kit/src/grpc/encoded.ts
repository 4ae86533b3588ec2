/** An answer that is bytes already: what many callers ask for is encoded once. */
export class Encoded {
  readonly bytes: Uint8Array;

  /** `bytes` are those of the method's output message. */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
}
