import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gunzipSync } from 'node:zlib';

export interface Span {
  service: string;
  name: string;
  traceId: string;
  spanId: string;
  parentSpanId: string;
}

interface Attribute {
  key: string;
  value: { stringValue?: string };
}
interface TraceExport {
  resourceSpans?: {
    resource?: { attributes?: Attribute[] };
    scopeSpans?: {
      spans?: { name: string; traceId: string; spanId: string; parentSpanId?: string }[];
    }[];
  }[];
}
interface MetricsExport {
  resourceMetrics?: { scopeMetrics?: { metrics?: { name: string }[] }[] }[];
}

/** An OTLP/HTTP receiver: what a collector would see. */
export class OtlpReceiver {
  readonly spans: Span[] = [];
  readonly metrics = new Set<string>();
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => {
      const parts: Buffer[] = [];
      request.on('data', (part: Buffer) => parts.push(part));
      request.on('end', () => {
        const body = Buffer.concat(parts);
        const text = (
          request.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body
        ).toString();
        if (request.url === '/v1/traces') this.#addSpans(JSON.parse(text) as TraceExport);
        if (request.url === '/v1/metrics') this.#addMetrics(JSON.parse(text) as MetricsExport);
        response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
      });
    });
  }

  static async start(): Promise<OtlpReceiver> {
    const receiver = new OtlpReceiver();
    await new Promise<void>((resolve) => receiver.#server.listen(0, '127.0.0.1', resolve));
    return receiver;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #addSpans(data: TraceExport): void {
    for (const { resource, scopeSpans = [] } of data.resourceSpans ?? []) {
      const service =
        resource?.attributes?.find(({ key }) => key === 'service.name')?.value.stringValue ?? '';
      for (const { spans = [] } of scopeSpans) {
        this.spans.push(
          ...spans.map(({ name, traceId, spanId, parentSpanId = '' }) => ({
            service,
            name,
            traceId,
            spanId,
            parentSpanId,
          })),
        );
      }
    }
  }

  #addMetrics(data: MetricsExport): void {
    for (const { scopeMetrics = [] } of data.resourceMetrics ?? []) {
      for (const { metrics = [] } of scopeMetrics)
        for (const { name } of metrics) this.metrics.add(name);
    }
  }
}
