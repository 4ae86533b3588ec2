import {
  createInbox,
  ErrorCode,
  nanos,
  NatsError,
  type Msg,
  type MsgHdrs,
  type NatsConnection,
  type Subscription,
} from 'nats';
import { SpindleError } from '@spindle/kit';

/** Longer than a pull may wait: who hears nothing until then has lost the server. */
const silenceMs = 5_000;
const noMessages = 404;
const expired = 408;
const noResponders = 503;

/** One delivery of a message from a work queue, and the answers that it may get. */
export class Delivery {
  readonly subject: string;
  readonly data: Uint8Array;
  readonly headers: MsgHdrs | undefined;
  readonly info: DeliveryInfo;
  readonly #msg: Msg;
  readonly #connection: NatsConnection;
  #answered = false;

  constructor(msg: Msg, info: DeliveryInfo, connection: NatsConnection) {
    this.subject = msg.subject;
    this.data = msg.data;
    this.headers = msg.headers;
    this.info = info;
    this.#msg = msg;
    this.#connection = connection;
  }

  string(): string {
    return this.#msg.string();
  }

  /** A sign of life: the server's wait begins anew. */
  working(): void {
    if (!this.#answered) this.#msg.respond('+WPI');
  }

  ack(): void {
    this.#answer('+ACK');
  }

  /** Returns once the server has taken the acknowledgement. */
  async ackAck(): Promise<void> {
    if (this.#answered) return;
    this.#answered = true;
    await this.#connection.request(this.#msg.reply ?? '', '+ACK', { timeout: 5_000 });
  }

  /** Given out again, after a time if one is named. */
  nak(delayMs?: number): void {
    this.#answer(
      delayMs === undefined ? '-NAK' : `-NAK ${JSON.stringify({ delay: nanos(delayMs) })}`,
    );
  }

  #answer(payload: string): void {
    if (this.#answered) return;
    this.#answered = true;
    this.#msg.respond(payload);
  }
}

/** What the server says of a delivery, in the subject of its answer. */
export interface DeliveryInfo {
  /** Whose it is: a late one may be of another than the one that is asked now. */
  consumer: string;
  /** 1 for the first. */
  attempt: number;
  /** Of the message in its stream. */
  sequence: number;
  timestampNanos: string;
  /** Messages of the consumer that were not given out yet. */
  pending: number;
}

/**
 * Reads `$JS.ACK.STREAM.CONSUMER.deliveries.sequence.consumerSequence.time.pending`, or the longer
 * form with a domain and an account behind `$JS.ACK`; undefined for anything else.
 */
export function readDeliveryInfo(reply: string): DeliveryInfo | undefined {
  const tokens = reply.split('.');
  const at = tokens.length === 9 ? 4 : 6;
  if (tokens[0] !== '$JS' || tokens[1] !== 'ACK' || tokens.length < at + 5) return undefined;
  const [attempt, sequence, , timestampNanos, pending] = tokens.slice(at);
  return {
    consumer: tokens[at - 1] ?? '',
    attempt: Number(attempt),
    sequence: Number(sequence),
    timestampNanos: timestampNanos ?? '',
    pending: Number(pending),
  };
}

/**
 * Pulls one message at a time, of any consumer, over one subscription that lasts: to subscribe anew
 * for each pull costs a worker of small jobs more than the jobs. What comes when nobody waits is
 * for `onLate`; without it, for the next call or close.
 */
export class PullInbox {
  readonly #connection: NatsConnection;
  readonly #prefix: string;
  readonly #subscription: Subscription;
  readonly #onLate: ((delivery: Delivery) => void) | undefined;
  /** Came after nobody waited any more. */
  readonly #late: Delivery[] = [];
  #pulls = 0;
  #waiting:
    | {
        /** Of the pulls that the server has not answered yet. */
        subjects: Set<string>;
        resolve: (delivery: Delivery | undefined) => void;
        reject: (error: Error) => void;
      }
    | undefined;

  /** `inboxes` begins the subject of its answers. */
  constructor(connection: NatsConnection, onLate?: (delivery: Delivery) => void, inboxes?: string) {
    this.#connection = connection;
    this.#onLate = onLate;
    this.#prefix = createInbox(inboxes);
    this.#subscription = connection.subscribe(`${this.#prefix}.*`, {
      callback: (error, msg) => this.#receive(error, msg),
    });
  }

  /**
   * The first message that any of the consumers has; undefined if there was none for `waitMs`. With
   * several, what the others have to give in that time comes late. A call at a time.
   */
  async next(
    stream: string,
    consumers: readonly [string, ...string[]],
    waitMs: number,
  ): Promise<Delivery | undefined> {
    const late = this.#late.shift();
    if (late !== undefined) return late;
    const pulls = consumers.map((consumer) => ({
      consumer,
      subject: `${this.#prefix}.${++this.#pulls}`,
    }));
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<Delivery | undefined>((resolve, reject) => {
        const subjects = new Set(pulls.map(({ subject }) => subject));
        this.#waiting = { subjects, resolve, reject };
        timer = setTimeout(
          () =>
            reject(
              new SpindleError(
                'UNAVAILABLE',
                `${consumers.join(', ')}: no answer to a pull in ${silenceMs} ms`,
              ),
            ),
          silenceMs,
        );
        const wish = JSON.stringify({ batch: 1, expires: nanos(waitMs) });
        for (const { consumer, subject: reply } of pulls)
          this.#connection.publish(`$JS.API.CONSUMER.MSG.NEXT.${stream}.${consumer}`, wish, {
            reply,
          });
      });
    } finally {
      clearTimeout(timer);
      this.#waiting = undefined;
    }
  }

  /** Ends the subscription; what came too late to be taken is returned. */
  close(): Delivery[] {
    this.#subscription.unsubscribe();
    return this.#late.splice(0);
  }

  #receive(error: Error | null, msg: Msg): void {
    if (error) return this.#waiting?.reject(error);
    const info = readDeliveryInfo(msg.reply ?? '');
    if (info !== undefined) {
      const delivery = new Delivery(msg, info, this.#connection);
      const waiting = this.#waiting;
      // The answer to an old pull may come just before that to the one at hand.
      this.#waiting = undefined;
      if (waiting) waiting.resolve(delivery);
      else if (this.#onLate) this.#onLate(delivery);
      else this.#late.push(delivery);
      return;
    }
    // The rest are words of the server about a pull, and old pulls are of no interest.
    const waiting = this.#waiting;
    if (!waiting?.subjects.delete(msg.subject)) return;
    const code = msg.headers?.code ?? 0;
    if (code !== noMessages && code !== expired)
      waiting.reject(refusal(code, msg.headers?.description ?? ''));
    else if (waiting.subjects.size === 0) waiting.resolve(undefined);
  }
}

function refusal(code: number, description: string): Error {
  if (code === noResponders) return NatsError.errorForCode(ErrorCode.NoResponders);
  return new SpindleError('UNAVAILABLE', `the server refused a pull: ${code} ${description}`);
}
