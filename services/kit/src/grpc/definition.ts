import {
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethod,
  type DescService,
  type Message,
} from '@bufbuild/protobuf';
import type { ChannelOptions, MethodDefinition, ServiceDefinition } from '@grpc/grpc-js';
import { Encoded } from './encoded.js';

/** A message, or one that is encoded already. */
type Answer = Message | Encoded;

/** A protobuf-es service as grpc-js wants it; keys are protobuf-es' method names. */
export function toGrpcJs(service: DescService): ServiceDefinition {
  return Object.fromEntries(
    service.methods.map((method) => [method.localName, methodDefinition(service, method)]),
  );
}

export function methodDefinition(
  service: DescService,
  method: DescMethod,
): MethodDefinition<Message, Message> {
  const input = codec(method.input);
  const output = codec(method.output);
  return {
    path: `/${service.typeName}/${method.name}`,
    requestStream:
      method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming',
    responseStream:
      method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming',
    requestSerialize: input.serialize,
    requestDeserialize: input.deserialize,
    responseSerialize: output.serialize,
    responseDeserialize: output.deserialize,
  };
}

function codec(message: DescMessage): {
  serialize: (value: Answer) => Buffer;
  deserialize: (bytes: Buffer) => Message;
} {
  return {
    serialize: (value) => {
      const bytes = value instanceof Encoded ? value.bytes : toBinary(message, value);
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    },
    deserialize: (bytes) => fromBinary(message, bytes),
  };
}

/**
 * Lists of prompts and of references pass the 4 MB that gRPC allows by default; pings find a peer
 * that is gone.
 */
export const channelOptions: ChannelOptions = {
  'grpc.max_receive_message_length': 64 << 20,
  'grpc.max_send_message_length': 64 << 20,
  'grpc.keepalive_time_ms': 20_000,
  'grpc.keepalive_timeout_ms': 20_000,
};
