import {
  create,
  toBinary,
  type DescMessage,
  type DescMethod,
  type DescService,
  type Message,
  type MessageInitShape,
} from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema, MethodOptions_IdempotencyLevel } from '@bufbuild/protobuf/wkt';
import {
  Server,
  ServerCredentials,
  setLogger,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServerWritableStream,
  type UntypedHandleCall,
} from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { context, SpanKind, trace, type Context } from '@opentelemetry/api';
import { suppressTracing } from '@opentelemetry/core';
import { HealthImplementation, service as healthService } from 'grpc-health-check';
import { once } from 'node:events';
import { ensureError, SpindleError } from '../errors.js';
import { cancelled, delay } from '../lifecycle.js';
import type { Logger } from '../logger.js';
import { checkOpenDoor, localTransport, type Transport } from '../tls/transport.js';
import { extractContext, failSpan, inSpan, tracer } from '../telemetry/spans.js';
import type { Caller, People, Role } from '../people.js';
import { askForToken, readCaller } from './ask-for-token.js';
import { serverCredentials } from './credentials.js';
import { channelOptions, toGrpcJs } from './definition.js';
import { Encoded } from './encoded.js';
import type { CallContext, ServiceHandlers } from './handlers.js';
import { toStatus } from './status.js';

type Call = ServerUnaryCall<Message, Message> | ServerWritableStream<Message, Message>;
type AnyUnary = (
  request: Message,
  context: CallContext,
) => Promise<MessageInitShape<DescMessage> | Encoded>;
type AnyStreaming = (
  request: Message,
  context: CallContext,
) => AsyncIterable<MessageInitShape<DescMessage>>;

const flushMs = 500;
/** Answers as long as the process does: "" says whether it is ready for work as well. */
const liveService = 'live';

/**
 * A gRPC server with health and reflection. Life: add services -> listen -> shutdown. Handlers
 * throw SpindleError (anything else becomes INTERNAL) and see deadline, cancellation and shutdown
 * as one signal.
 */
export class GrpcServer {
  readonly #server: Server;
  readonly #health = new HealthImplementation({ '': 'SERVING', [liveService]: 'SERVING' });
  readonly #services: DescService[] = [];
  readonly #calls = new Set<AbortController>();
  #idle: (() => void) | undefined;
  readonly #logger: Logger;
  readonly #token: string | undefined;
  readonly #transport: Transport;
  #healthServer: Server | undefined;

  /**
   * With a token, callers that do not show it get nothing but health; `people` are let in beside
   * the mesh, as far as `leastRole` of a method's path says.
   */
  constructor(options: {
    logger: Logger;
    token?: string | undefined;
    transport?: Transport | undefined;
    people?: People | undefined;
    leastRole?: ((path: string) => Role) | undefined;
  }) {
    this.#logger = options.logger;
    this.#token = options.token;
    this.#transport = options.transport ?? localTransport;
    const { token, people, leastRole } = options;
    const onDenied = (caller: Caller, method: string): void =>
      this.#logger.warn({ caller, method }, 'a call was denied');
    const interceptors =
      token === undefined ? [] : [askForToken({ token, people, leastRole, onDenied })];
    this.#server = new Server({ ...channelOptions, interceptors });
    // grpc-js prints to stderr by itself what the caller learns anyway.
    setLogger({ error: (message: unknown) => this.#logger.debug(String(message)) });
  }

  addService<S extends DescService>(service: S, handlers: ServiceHandlers<S>): void {
    const table = handlers as unknown as Record<string, AnyUnary & AnyStreaming>;
    const implementation: Record<string, UntypedHandleCall> = {};
    for (const method of service.methods) {
      const handler = table[method.localName];
      if (!handler)
        throw new SpindleError('INTERNAL', `${service.typeName}: no handler for ${method.name}`);
      const bound = handler.bind(handlers);
      implementation[method.localName] =
        method.methodKind === 'server_streaming'
          ? this.#streaming(method, bound)
          : this.#unary(method, bound);
    }
    this.#server.addService(toGrpcJs(service), implementation);
    this.#services.push(service);
    this.setServing(service.typeName, true);
  }

  /** "host:port"; port 0 takes a free one. Returns the port. */
  async listen(address: string): Promise<number> {
    const door = { token: this.#token, transport: this.#transport };
    checkOpenDoor(address, door, this.#logger);
    this.#health.addToServer(this.#server);
    addReflection(this.#server, this.#services);
    return bind(this.#server, address, serverCredentials(this.#transport));
  }

  /**
   * Health alone, in plain and for everybody: a kubelet's probe knows neither certificates nor
   * tokens.
   */
  async listenForHealth(address: string): Promise<number> {
    const server = new Server();
    this.#health.addToServer(server);
    this.#healthServer = server;
    return bind(server, address, ServerCredentials.createInsecure());
  }

  /** "" is the process as a whole, with all that it needs; "live" is always serving. */
  setServing(service: string, serving: boolean): void {
    this.#health.setStatus(service, serving ? 'SERVING' : 'NOT_SERVING');
  }

  /**
   * Takes no more calls, lets those under way finish for `graceMs`, then aborts their signals and
   * closes the connections.
   */
  async shutdown(graceMs: number): Promise<void> {
    for (const name of ['', ...this.#services.map((service) => service.typeName)])
      this.setServing(name, false);
    const closed = new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve()));
    if (this.#calls.size > 0) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
        timer = setTimeout(resolve, graceMs);
      });
      clearTimeout(timer);
    }
    for (const call of this.#calls)
      call.abort(new SpindleError('UNAVAILABLE', 'the server is shutting down'));
    // Lets the last answers leave. Health watchers hold their connections for ever, so this wait
    // needs a limit.
    const flushed = new AbortController();
    await Promise.race([closed, delay(flushMs, flushed.signal).catch(() => undefined)]);
    flushed.abort();
    this.#server.forceShutdown();
    this.#healthServer?.forceShutdown();
  }

  #unary(method: DescMethod, handler: AnyUnary): handleUnaryCall<Message, Message> {
    return (call: ServerUnaryCall<Message, Message>, reply: sendUnaryData<Message>) => {
      const { callContext, parent, done } = this.#begin(call, method);
      inSpan(
        spanName(method),
        spanAttributes(method),
        async () => answerOf(method.output, await handler(call.request, callContext)),
        parent,
        SpanKind.SERVER,
      )
        .then((response) => reply(null, response))
        .catch((error: unknown) => reply(this.#failure(method, error)))
        .finally(done);
    };
  }

  #streaming(
    method: DescMethod,
    handler: AnyStreaming,
  ): handleServerStreamingCall<Message, Message> {
    return (call: ServerWritableStream<Message, Message>) => {
      const { callContext, parent, done } = this.#begin(call, method);
      const span = tracer().startSpan(
        spanName(method),
        { kind: SpanKind.SERVER, attributes: spanAttributes(method) },
        parent,
      );
      void context
        .with(trace.setSpan(parent, span), () =>
          writeAll(call, method, handler(call.request, callContext), callContext.signal),
        )
        .then(() => call.end())
        .catch((error: unknown) => {
          failSpan(span, error);
          call.emit('error', this.#failure(method, error));
        })
        .finally(() => {
          span.end();
          done();
        });
    };
  }

  /** Ties the call's cancellation, deadline and the server's shutdown to one signal. */
  #begin(
    call: Call,
    method: DescMethod,
  ): { callContext: CallContext; parent: Context; done: () => void } {
    const controller = new AbortController();
    this.#calls.add(controller);
    const limit = call.getDeadline();
    const deadline =
      limit instanceof Date ? limit : Number.isFinite(limit) ? new Date(limit) : undefined;
    call.on('cancelled', () => {
      const expired = deadline !== undefined && Date.now() >= deadline.getTime() - 1;
      controller.abort(
        expired
          ? new SpindleError('DEADLINE_EXCEEDED', 'the deadline has passed')
          : new SpindleError('CANCELLED', 'the caller cancelled the call'),
      );
    });
    const { metadata } = call;
    const caller = extractContext({
      keys: () => Object.keys(metadata.getMap()),
      get: (key) => metadata.get(key)[0],
    });
    // A look at a run that belongs to no trace would begin one of its own, several times a second
    // while somebody watches.
    const idle =
      method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS &&
      !trace.getSpan(caller);
    const parent = idle ? suppressTracing(caller) : caller;
    const done = (): void => {
      this.#calls.delete(controller);
      if (this.#calls.size === 0) this.#idle?.();
    };
    const known = this.#token === undefined ? undefined : readCaller(metadata);
    const callContext = {
      signal: controller.signal,
      deadline,
      metadata,
      caller: known ?? { name: 'anyone', role: 'admin' as const },
    };
    return { callContext, parent, done };
  }

  #failure(method: DescMethod, error: unknown): ReturnType<typeof toStatus> {
    const failure = ensureError(error);
    const level = failure.code === 'INTERNAL' ? 'error' : 'debug';
    this.#logger[level](
      { err: failure, method: `${method.parent.typeName}/${method.name}` },
      'call failed',
    );
    return toStatus(failure);
  }
}

function bind(server: Server, address: string, credentials: ServerCredentials): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(address, credentials, (cause, port) => {
      if (cause) {
        const message = `cannot listen on ${address}: is the port in use? (${cause.message})`;
        reject(new SpindleError('FAILED_PRECONDITION', message, { cause }));
      } else resolve(port);
    });
  });
}

/** What the serializer takes: it knows both. */
function answerOf(output: DescMessage, given: MessageInitShape<DescMessage> | Encoded): Message {
  return given instanceof Encoded ? (given as unknown as Message) : create(output, given);
}

/**
 * Pulls the next message only when the previous one found room, and stops pulling when the call is
 * over.
 */
async function writeAll(
  call: ServerWritableStream<Message, Message>,
  method: DescMethod,
  messages: AsyncIterable<MessageInitShape<DescMessage>>,
  signal: AbortSignal,
): Promise<void> {
  for await (const message of messages) {
    if (signal.aborted) throw cancelled(signal);
    if (!call.write(create(method.output, message))) await once(call, 'drain', { signal });
  }
}

function spanName(method: DescMethod): string {
  return `${method.parent.typeName}/${method.name}`;
}

function spanAttributes(method: DescMethod): Record<string, string> {
  return { 'rpc.system': 'grpc', 'rpc.service': method.parent.typeName, 'rpc.method': method.name };
}

/** Reflection reads file descriptors from where proto-loader would have put them. */
function addReflection(server: Server, services: readonly DescService[]): void {
  const files = new Map<string, Buffer>();
  const add = (file: DescService['file']): void => {
    if (files.has(file.proto.name)) return;
    files.set(file.proto.name, Buffer.from(toBinary(FileDescriptorProtoSchema, file.proto)));
    file.dependencies.forEach(add);
  };
  services.forEach((service) => add(service.file));
  const health = Object.values(healthService)[0]?.requestType as
    | { fileDescriptorProtos?: Buffer[] }
    | undefined;
  const fileDescriptorProtos = [...files.values(), ...(health?.fileDescriptorProtos ?? [])];
  type Package = ConstructorParameters<typeof ReflectionService>[0];
  const names = [...services.map((service) => service.typeName), 'grpc.health.v1.Health'];
  new ReflectionService({ spindle: { fileDescriptorProtos } } as unknown as Package, {
    services: names,
  }).addToServer(server);
}
