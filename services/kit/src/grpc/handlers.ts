import type { DescMessage, DescService, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import type { Metadata } from '@grpc/grpc-js';
import type { Caller } from '../people.js';
import type { Encoded } from './encoded.js';

/** What a handler knows of its call beside the request. */
export interface CallContext {
  /** Aborts when the caller cancels, the deadline passes, or the server stops. */
  signal: AbortSignal;
  deadline: Date | undefined;
  metadata: Metadata;
  /** Who calls; "anyone" where no token is asked for. */
  caller: Caller;
}

type Unary<I extends DescMessage, O extends DescMessage> = (
  request: MessageShape<I>,
  context: CallContext,
) => Promise<MessageInitShape<O> | Encoded>;

type ServerStreaming<I extends DescMessage, O extends DescMessage> = (
  request: MessageShape<I>,
  context: CallContext,
) => AsyncIterable<MessageInitShape<O>>;

/** One function per method; client streams are not part of this system. */
export type ServiceHandlers<S extends DescService> = {
  [K in keyof S['method']]: S['method'][K] extends {
    methodKind: infer Kind;
    input: infer I extends DescMessage;
    output: infer O extends DescMessage;
  }
    ? Kind extends 'unary'
      ? Unary<I, O>
      : Kind extends 'server_streaming'
        ? ServerStreaming<I, O>
        : never
    : never;
};

/** How long a call may take, and who may break it off. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
  /** Default: 60 s for unary calls, none for streams; Infinity for none. */
  timeoutMs?: number | undefined;
}

/** A client with one method per RPC of the service. */
export type ServiceClient<S extends DescService> = {
  [K in keyof S['method']]: S['method'][K] extends {
    methodKind: infer Kind;
    input: infer I extends DescMessage;
    output: infer O extends DescMessage;
  }
    ? Kind extends 'unary'
      ? (request: MessageInitShape<I>, options?: CallOptions) => Promise<MessageShape<O>>
      : Kind extends 'server_streaming'
        ? (request: MessageInitShape<I>, options?: CallOptions) => AsyncIterable<MessageShape<O>>
        : never
    : never;
} & { close(): void };
