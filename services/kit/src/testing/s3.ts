/**
 * A small S3 server over real HTTP for tests: objects in memory, ranges, pages of listings,
 * multipart uploads, conditional writes; refuses requests whose signature (AWS Signature Version 4)
 * or body digest is wrong.
 */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export const testCredentials = { accessKeyId: 'AKIDTEST', secretAccessKey: 'a secret/with+signs' };

/**
 * What the server does to the next requests instead of answering them: a status, half of the body,
 * or nothing at all.
 */
export type Fault = number | 'cut' | 'stall';

export interface TestS3 {
  url: string;
  /** "bucket/key" -> bytes. */
  objects: Map<string, Buffer>;
  buckets: Set<string>;
  /** Used up one by one by requests that `faultsFor` matches. */
  faults: Fault[];
  faultsFor: (request: { method: string; path: string }) => boolean;
  /** "GET /bucket/key", in order. */
  log: string[];
  /** Uploads that were begun and neither completed nor aborted. */
  uploads: Map<string, Map<number, Buffer>>;
  /** The environment that makes any AWS client talk to it. */
  environment: Record<string, string>;
  close(): Promise<void>;
}

const pageSize = 3;

export async function startTestS3(): Promise<TestS3> {
  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => {
      response.destroy(error instanceof Error ? error : new Error(String(error)));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const s3: TestS3 = {
    url,
    objects: new Map(),
    buckets: new Set(['bucket']),
    faults: [],
    faultsFor: () => true,
    log: [],
    uploads: new Map(),
    environment: {
      AWS_ENDPOINT_URL_S3: url,
      AWS_ACCESS_KEY_ID: testCredentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: testCredentials.secretAccessKey,
      AWS_REGION: 'eu-test-1',
      AWS_EC2_METADATA_DISABLED: 'true',
    },
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    answer(request, response, Buffer.concat(chunks));
  }

  function answer(request: IncomingMessage, response: ServerResponse, body: Buffer): void {
    const { pathname, searchParams } = new URL(request.url ?? '/', url);
    const method = request.method ?? 'GET';
    const path = decodeURIComponent(pathname);
    s3.log.push(`${method} ${path}`);
    const refusal = checkSignature(request, pathname, searchParams, body);
    if (refusal !== null) return fail(response, 403, refusal);
    const fault =
      s3.faults.length > 0 && s3.faultsFor({ method, path }) ? s3.faults.shift() : undefined;
    if (fault === 'stall') return;
    if (typeof fault === 'number')
      return fail(
        response,
        fault,
        fault === 403 ? 'AccessDenied' : fault === 503 ? 'SlowDown' : 'InternalError',
      );
    const [, bucket = '', key = ''] = /^\/([^/]+)\/?(.*)$/s.exec(path) ?? [];
    if (!s3.buckets.has(bucket)) return fail(response, 404, 'NoSuchBucket');
    if (method === 'GET' && key === '') return list(response, bucket, searchParams);
    const name = `${bucket}/${key}`;
    const upload = searchParams.get('uploadId');
    if (method === 'POST' && searchParams.has('uploads')) {
      const id = `upload-${s3.log.length}`;
      s3.uploads.set(id, new Map());
      return xml(
        response,
        `<InitiateMultipartUploadResult><UploadId>${id}</UploadId></InitiateMultipartUploadResult>`,
      );
    }
    if (upload !== null)
      return part(response, method, upload, Number(searchParams.get('partNumber')), name, body);
    if (method === 'PUT') {
      if (request.headers['if-none-match'] === '*' && s3.objects.has(name))
        return fail(response, 412, 'PreconditionFailed');
      s3.objects.set(name, body);
      response.setHeader('etag', etag(body)).end();
      return;
    }
    if (method === 'DELETE') {
      s3.objects.delete(name);
      response.writeHead(204).end();
      return;
    }
    const object = s3.objects.get(name);
    if (object === undefined) return fail(response, 404, 'NoSuchKey', method === 'HEAD');
    if (method === 'HEAD') {
      response.writeHead(200, { 'content-length': object.length, etag: etag(object) }).end();
      return;
    }
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    const first = Number(range?.[1] ?? 0);
    if (range && first >= object.length) return fail(response, 416, 'InvalidRange');
    const bytes = range ? object.subarray(first, Number(range[2]) + 1) : object;
    response.writeHead(range ? 206 : 200, { 'content-length': bytes.length, etag: etag(object) });
    if (fault !== 'cut') response.end(bytes);
    else response.write(bytes.subarray(0, bytes.length >> 1), () => response.destroy());
  }

  function part(
    response: ServerResponse,
    method: string,
    id: string,
    number: number,
    name: string,
    body: Buffer,
  ): void {
    const parts = s3.uploads.get(id);
    if (parts === undefined) return fail(response, 404, 'NoSuchUpload');
    if (method === 'PUT') {
      parts.set(number, body);
      response.setHeader('etag', etag(body)).end();
    } else if (method === 'DELETE') {
      s3.uploads.delete(id);
      response.writeHead(204).end();
    } else {
      const named = [...body.toString().matchAll(/<PartNumber>(\d+)<\/PartNumber>/g)].map((match) =>
        Number(match[1]),
      );
      s3.objects.set(name, Buffer.concat(named.map((n) => parts.get(n) ?? Buffer.alloc(0))));
      s3.uploads.delete(id);
      xml(response, '<CompleteMultipartUploadResult></CompleteMultipartUploadResult>');
    }
  }

  function list(response: ServerResponse, bucket: string, query: URLSearchParams): void {
    const prefix = query.get('prefix') ?? '';
    const after = query.get('continuation-token') ?? '';
    const most = Math.min(Number(query.get('max-keys') ?? pageSize), pageSize);
    const keys = [...s3.objects.keys()]
      .filter((name) => name.startsWith(`${bucket}/${prefix}`))
      .map((name) => name.slice(bucket.length + 1))
      .sort()
      .filter((key) => key > after);
    const page = keys.slice(0, most);
    const last = page.at(-1) ?? '';
    const more = keys.length > page.length;
    const entries = page.map(
      (key) =>
        `<Contents><Key>${escape(key)}</Key><Size>${s3.objects.get(`${bucket}/${key}`)?.length}</Size></Contents>`,
    );
    const token = more ? `<NextContinuationToken>${escape(last)}</NextContinuationToken>` : '';
    xml(
      response,
      `<ListBucketResult><IsTruncated>${more}</IsTruncated>${token}${entries.join('')}</ListBucketResult>`,
    );
  }

  return s3;
}

function xml(response: ServerResponse, text: string): void {
  response
    .writeHead(200, { 'content-type': 'application/xml' })
    .end(`<?xml version="1.0" encoding="UTF-8"?>${text}`);
}

function fail(response: ServerResponse, status: number, code: string, bare = false): void {
  response.writeHead(status, { 'content-type': 'application/xml' });
  response.end(
    bare
      ? undefined
      : `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>${code} of ` +
          'the test</Message></Error>',
  );
}

function etag(bytes: Buffer): string {
  return `"${createHash('md5').update(bytes).digest('hex')}"`;
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

/**
 * AWS Signature Version 4, header form, as the S3 documentation describes it; null when it is
 * right.
 */
function checkSignature(
  request: IncomingMessage,
  pathname: string,
  query: URLSearchParams,
  body: Buffer,
): string | null {
  const match =
    /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/.exec(
      request.headers.authorization ?? '',
    );
  if (!match) return 'AccessDenied';
  const [, key, day = '', region = '', signed = '', signature = ''] = match;
  if (key !== testCredentials.accessKeyId) return 'InvalidAccessKeyId';
  const payload = String(request.headers['x-amz-content-sha256']);
  if (payload !== 'UNSIGNED-PAYLOAD' && payload !== hex(body)) return 'XAmzContentSHA256Mismatch';
  for (const needed of ['host', 'x-amz-date', 'x-amz-content-sha256'])
    if (!signed.split(';').includes(needed)) return 'AccessDenied';
  const encode = (text: string): string =>
    encodeURIComponent(text).replace(
      /[!'()*]/g,
      (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
    );
  const canonical = [
    request.method,
    pathname
      .split('/')
      .map((part) => encode(decodeURIComponent(part)))
      .join('/'),
    [...query]
      .map(([name, value]) => `${encode(name)}=${encode(value)}`)
      .sort()
      .join('&'),
    ...signed
      .split(';')
      .map((name) => `${name}:${String(request.headers[name]).trim().replace(/\s+/g, ' ')}`),
    '',
    signed,
    payload,
  ].join('\n');
  const toSign = [
    'AWS4-HMAC-SHA256',
    request.headers['x-amz-date'],
    `${day}/${region}/s3/aws4_request`,
    hex(Buffer.from(canonical)),
  ].join('\n');
  let secret: Buffer | string = `AWS4${testCredentials.secretAccessKey}`;
  for (const part of [day, region, 's3', 'aws4_request'])
    secret = createHmac('sha256', secret).update(part).digest();
  const expected = createHmac('sha256', secret).update(toSign).digest();
  return timingSafeEqual(expected, Buffer.from(signature, 'hex')) ? null : 'SignatureDoesNotMatch';
}

function hex(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
