import { create, type DescMethod, type DescService, type Message } from '@bufbuild/protobuf';
import { Client, Metadata, type ClientReadableStream, type ClientUnaryCall } from '@grpc/grpc-js';
import { context, SpanKind, trace } from '@opentelemetry/api';
import { service as healthService } from 'grpc-health-check';
import { SpindleError } from '../errors.js';
import { cancelled } from '../lifecycle.js';
import { failSpan, injectContext, inSpan, tracer } from '../telemetry/spans.js';
import { localTransport, type Transport } from '../tls/transport.js';
import { channelTo } from './credentials.js';
import { channelOptions, methodDefinition } from './definition.js';
import type { CallOptions, ServiceClient } from './handlers.js';
import { fromStatus } from './status.js';

const unaryTimeoutMs = 60_000;

/**
 * A client of "https://host:port", or in plain of "host:port". Calls show the mesh's token and reject with the SpindleError that the server threw; leaving a
 * stream's loop early cancels the call.
 */
export function createClient<S extends DescService>(
  service: S,
  address: string,
  token?: string,
  transport: Transport = localTransport,
): ServiceClient<S> {
  const { target, credentials } = channelTo(address, token, transport);
  const channel = new Client(target, credentials, channelOptions);
  const peer = { channel, address, token };
  const methods = service.methods.map((method) => {
    switch (method.methodKind) {
      case 'unary':
        return [
          method.localName,
          (request: Message, options: CallOptions = {}) =>
            callUnary(peer, method, request, options),
        ];
      case 'server_streaming':
        return [
          method.localName,
          (request: Message, options: CallOptions = {}) =>
            callStreaming(peer, method, request, options),
        ];
      default:
        throw new SpindleError(
          'INTERNAL',
          `${service.typeName}.${method.name}: client streams are not supported`,
        );
    }
  });
  return { ...Object.fromEntries(methods), close: () => channel.close() } as ServiceClient<S>;
}

/**
 * Does the server at the address say that it (or one of its services) is serving? False when it
 * cannot be reached.
 */
export async function checkHealth(
  address: string,
  timeoutMs: number,
  service = '',
  transport: Transport = localTransport,
): Promise<boolean> {
  const { target, credentials } = channelTo(address, undefined, transport);
  const channel = new Client(target, credentials);
  const { path, requestSerialize, responseDeserialize } =
    healthService.Check as unknown as HealthCheck;
  try {
    return await new Promise((resolve) => {
      channel.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        { service },
        { deadline: Date.now() + timeoutMs },
        (error, response) => resolve(!error && response?.status === 'SERVING'),
      );
    });
  } finally {
    channel.close();
  }
}

interface HealthCheck {
  path: string;
  requestSerialize: (request: { service: string }) => Buffer;
  responseDeserialize: (bytes: Buffer) => { status: string };
}

/** Whom a client calls. */
interface Peer {
  channel: Client;
  address: string;
  token: string | undefined;
}

function callUnary(
  { channel, address, token }: Peer,
  method: DescMethod,
  request: Message,
  options: CallOptions,
): Promise<Message> {
  const { path, requestSerialize, responseDeserialize } = methodDefinition(method.parent, method);
  const { signal, timeoutMs = unaryTimeoutMs } = options;
  return inSpan(
    spanName(method),
    spanAttributes(method, address),
    () =>
      new Promise<Message>((resolve, reject) => {
        if (signal?.aborted) return reject(cancelled(signal));
        const onAbort = (): void => call.cancel();
        const call: ClientUnaryCall = channel.makeUnaryRequest(
          path,
          requestSerialize,
          responseDeserialize,
          create(method.input, request),
          metadataOf(token),
          deadlineOf(timeoutMs),
          (error, response) => {
            signal?.removeEventListener('abort', onAbort);
            if (response) resolve(response);
            else
              reject(
                signal?.aborted ? cancelled(signal) : located(fromStatus(error), method, address),
              );
          },
        );
        signal?.addEventListener('abort', onAbort, { once: true });
      }),
    context.active(),
    SpanKind.CLIENT,
  );
}

async function* callStreaming(
  { channel, address, token }: Peer,
  method: DescMethod,
  request: Message,
  options: CallOptions,
): AsyncGenerator<Message> {
  const { signal, timeoutMs = Infinity } = options;
  if (signal?.aborted) throw cancelled(signal);
  const span = tracer().startSpan(spanName(method), {
    kind: SpanKind.CLIENT,
    attributes: spanAttributes(method, address),
  });
  const { path, requestSerialize, responseDeserialize } = methodDefinition(method.parent, method);
  const call: ClientReadableStream<Message> = context.with(
    trace.setSpan(context.active(), span),
    () =>
      channel.makeServerStreamRequest(
        path,
        requestSerialize,
        responseDeserialize,
        create(method.input, request),
        metadataOf(token),
        deadlineOf(timeoutMs),
      ),
  );
  const onAbort = (): void => call.cancel();
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    for await (const message of call) yield message as Message;
  } catch (error) {
    const failure = signal?.aborted
      ? cancelled(signal)
      : located(fromStatus(error), method, address);
    failSpan(span, failure);
    throw failure;
  } finally {
    signal?.removeEventListener('abort', onAbort);
    call.cancel();
    span.end();
  }
}

/** A connection failure says nothing of whom it could not reach. */
function located(error: SpindleError, method: DescMethod, address: string): SpindleError {
  if (error.code !== 'UNAVAILABLE' && error.code !== 'DEADLINE_EXCEEDED') return error;
  return new SpindleError(error.code, `${spanName(method)} at ${address}: ${error.message}`, {
    cause: error,
    retryable: error.retryable,
  });
}

function metadataOf(token: string | undefined): Metadata {
  const metadata = new Metadata();
  if (token !== undefined) metadata.set('authorization', `Bearer ${token}`);
  injectContext(metadata);
  return metadata;
}

function deadlineOf(timeoutMs: number): { deadline?: number } {
  return Number.isFinite(timeoutMs) ? { deadline: Date.now() + timeoutMs } : {};
}

function spanName(method: DescMethod): string {
  return `${method.parent.typeName}/${method.name}`;
}

function spanAttributes(method: DescMethod, address: string): Record<string, string> {
  return {
    'rpc.system': 'grpc',
    'rpc.service': method.parent.typeName,
    'rpc.method': method.name,
    'server.address': address,
  };
}
