/** A reader under fuzz, and what it is given. */
export interface FuzzTarget {
  /** As in `npm run fuzz -- --only NAME`; also the name of its folder of inputs. */
  name: string;
  /** Sound inputs, which mutations begin with. */
  seeds: () => Promise<readonly Uint8Array[]> | readonly Uint8Array[];
  /** Pieces of the format that mutations put in. */
  words?: readonly string[];
  /** Inputs made to cost time, memory or stack; each is tried once. */
  hostile?: () => Iterable<Uint8Array>;
  /** Reads the input whole. It may only throw errors of ours, which have a code. */
  read: (input: Buffer) => unknown;
}

/** What every input is held to. */
export const limits = {
  /** CPU time of one input. */
  seconds: 10,
  /** Without a sign of life, the process is ended. */
  silentSeconds: 60,
  /** Of the whole process, as the system counts it. */
  residentBytes: 1536 << 20,
  /** Of an error's message. */
  messageLength: 4096,
  /** Of a mutated input; hostile ones may be larger. */
  inputBytes: 1 << 16,
} as const;
