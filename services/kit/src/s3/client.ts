/**
 * Objects of an S3-compatible store. Credentials, profile, region and endpoint come from the
 * environment as for every AWS tool (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_REGION,
 * AWS_ENDPOINT_URL_S3, ...). The client is loaded when it is first needed.
 */
import type * as ClientS3 from '@aws-sdk/client-s3';
import { open } from 'node:fs/promises';
import { SpindleError } from '../errors.js';
import { delay } from '../lifecycle.js';
import { clearly, isMissing, isPassing } from './errors.js';

type Sdk = typeof ClientS3;
type S3Client = ClientS3.S3Client;

/** Where an object, or all objects of a prefix, lie. */
export interface S3Address {
  bucket: string;
  /** Without a leading "/"; a prefix may be empty. */
  key: string;
}

export interface S3Options {
  /** Seconds of silence after which a request is given up and tried again. */
  idleSeconds?: number;
  /** Files above this go up in parts of this size; S3 wants at least 5 MiB. */
  partBytes?: number;
  attempts?: number;
  /** Wait before the second attempt; it grows fourfold. */
  firstWaitMs?: number;
}

const standard = { idleSeconds: 60, partBytes: 64 * 1024 * 1024, attempts: 4, firstWaitMs: 100 };
const connectMs = 10_000;
/** S3 takes no more parts than this. */
const mostParts = 10_000;

/** Reads s3://bucket/key; INVALID_ARGUMENT for anything else. */
export function parseS3Url(url: string): S3Address {
  const match = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/(.*))?$/.exec(url);
  if (!match?.[1])
    throw new SpindleError('INVALID_ARGUMENT', `expected s3://bucket/key, got "${url}"`);
  return { bucket: match[1], key: match[2] ?? '' };
}

/** An S3-compatible store; the SDK is loaded at the first call. */
export class ObjectStore {
  readonly #options: Required<S3Options>;
  #opened: Promise<{ sdk: Sdk; client: S3Client }> | undefined;

  constructor(options: S3Options = {}) {
    this.#options = { ...standard, ...options };
  }

  /** Size in bytes; null when there is no such object. */
  async head({ bucket, key }: S3Address): Promise<number | null> {
    return this.#try(`s3://${bucket}/${key}`, async (sdk, client) => {
      try {
        return (
          (await client.send(new sdk.HeadObjectCommand({ Bucket: bucket, Key: key })))
            .ContentLength ?? 0
        );
      } catch (error) {
        if (isMissing(error)) return null;
        throw error;
      }
    });
  }

  /**
   * At most `length` bytes from `offset`; fewer at the end of the object. null when there is no
   * such object.
   */
  async read(
    { bucket, key }: S3Address,
    offset: number,
    length: number,
  ): Promise<Buffer<ArrayBuffer> | null> {
    if (length === 0) return Buffer.alloc(0);
    const url = `s3://${bucket}/${key}`;
    return this.#try(url, async (sdk, client) => {
      const stop = new AbortController();
      const idle = (): void =>
        stop.abort(
          new SpindleError(
            'DEADLINE_EXCEEDED',
            `${url}: nothing came for ${this.#options.idleSeconds} s`,
          ),
        );
      let timer = setTimeout(idle, this.#options.idleSeconds * 1000);
      try {
        const range = `bytes=${offset}-${offset + length - 1}`;
        const { Body, ContentLength } = await client.send(
          new sdk.GetObjectCommand({ Bucket: bucket, Key: key, Range: range }),
          {
            abortSignal: stop.signal,
          },
        );
        const bytes = Buffer.allocUnsafeSlow(ContentLength ?? 0);
        let got = 0;
        for await (const chunk of Body as AsyncIterable<Buffer>) {
          clearTimeout(timer);
          timer = setTimeout(idle, this.#options.idleSeconds * 1000);
          if (got + chunk.length > bytes.length)
            throw new SpindleError(
              'UNAVAILABLE',
              `${url}: expected ${bytes.length} bytes, got more`,
            );
          got += chunk.copy(bytes, got);
        }
        if (got < bytes.length)
          throw new SpindleError(
            'UNAVAILABLE',
            `${url}: expected ${bytes.length} bytes, got ${got}`,
          );
        return bytes;
      } catch (error) {
        if (isMissing(error)) return null;
        if (error instanceof sdk.S3ServiceException && error.name === 'InvalidRange')
          return Buffer.alloc(0);
        throw stop.signal.aborted ? stop.signal.reason : error;
      } finally {
        clearTimeout(timer);
        stop.abort();
      }
    });
  }

  /** With `create` an object that is there already stays as it is, and the answer is false. */
  async put(
    { bucket, key }: S3Address,
    body: Uint8Array | string,
    options: { create?: boolean } = {},
  ): Promise<boolean> {
    return this.#try(`s3://${bucket}/${key}`, async (sdk, client) => {
      try {
        await client.send(
          new sdk.PutObjectCommand({
            Bucket: bucket,
            Key: key,
            Body: body,
            ...(options.create && { IfNoneMatch: '*' }),
          }),
        );
        return true;
      } catch (error) {
        if (
          options.create &&
          error instanceof sdk.S3ServiceException &&
          error.$metadata.httpStatusCode === 412
        )
          return false;
        throw error;
      }
    });
  }

  async putFile(address: S3Address, path: string): Promise<void> {
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      const read = async (offset: number, length: number): Promise<Buffer> => {
        const bytes = Buffer.allocUnsafe(length);
        for (let done = 0; done < length; ) {
          const { bytesRead } = await file.read(bytes, done, length - done, offset + done);
          if (bytesRead === 0)
            throw new SpindleError('ABORTED', `${path}: the file became shorter while it was read`);
          done += bytesRead;
        }
        return bytes;
      };
      if (size <= this.#options.partBytes) await this.put(address, await read(0, size));
      else await this.#putParts(address, size, read);
    } finally {
      await file.close();
    }
  }

  async #putParts(
    { bucket, key }: S3Address,
    size: number,
    read: (offset: number, length: number) => Promise<Buffer>,
  ): Promise<void> {
    const url = `s3://${bucket}/${key}`;
    const partBytes = Math.max(this.#options.partBytes, Math.ceil(size / mostParts));
    const upload = { Bucket: bucket, Key: key };
    const { UploadId } = await this.#try(url, (sdk, client) =>
      client.send(new sdk.CreateMultipartUploadCommand(upload)),
    );
    try {
      const parts: { ETag: string | undefined; PartNumber: number }[] = [];
      for (let offset = 0; offset < size; offset += partBytes) {
        const PartNumber = parts.length + 1;
        const Body = await read(offset, Math.min(partBytes, size - offset));
        const { ETag } = await this.#try(url, (sdk, client) =>
          client.send(new sdk.UploadPartCommand({ ...upload, UploadId, PartNumber, Body })),
        );
        parts.push({ ETag, PartNumber });
      }
      await this.#try(url, (sdk, client) =>
        client.send(
          new sdk.CompleteMultipartUploadCommand({
            ...upload,
            UploadId,
            MultipartUpload: { Parts: parts },
          }),
        ),
      );
    } catch (error) {
      // Parts that nobody completes are paid for until they are removed.
      await this.#try(url, (sdk, client) =>
        client.send(new sdk.AbortMultipartUploadCommand({ ...upload, UploadId })),
      ).catch(() => undefined);
      throw error;
    }
  }

  /** Keys below a prefix in S3's order, that of UTF-8 bytes. */
  async *list(
    { bucket, key: prefix }: S3Address,
    pageSize?: number,
  ): AsyncIterable<{ key: string; bytes: number }> {
    let token: string | undefined;
    do {
      const page = await this.#try(`s3://${bucket}/${prefix}`, (sdk, client) =>
        client.send(
          new sdk.ListObjectsV2Command({
            Bucket: bucket,
            Prefix: prefix,
            ...(token !== undefined && { ContinuationToken: token }),
            ...(pageSize !== undefined && { MaxKeys: pageSize }),
          }),
        ),
      );
      for (const { Key, Size } of page.Contents ?? [])
        if (Key !== undefined) yield { key: Key, bytes: Size ?? 0 };
      token = page.NextContinuationToken;
    } while (token !== undefined);
  }

  async delete({ bucket, key }: S3Address): Promise<void> {
    await this.#try(`s3://${bucket}/${key}`, (sdk, client) =>
      client.send(new sdk.DeleteObjectCommand({ Bucket: bucket, Key: key })),
    );
  }

  /** Tries again what may pass, and says what it is that did not in one sentence. */
  async #try<T>(url: string, work: (sdk: Sdk, client: S3Client) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        const { sdk, client } = await (this.#opened ??= openClient(this.#options));
        return await work(sdk, client);
      } catch (error) {
        if (attempt >= this.#options.attempts || !isPassing(error))
          throw clearly(url, error, attempt);
        await delay(this.#options.firstWaitMs * 4 ** (attempt - 1) * (0.75 + Math.random() / 2));
      }
    }
  }
}

async function openClient(options: Required<S3Options>): Promise<{ sdk: Sdk; client: S3Client }> {
  const sdk = await import('@aws-sdk/client-s3');
  const settings = {
    // The one address that every S3-compatible store understands.
    forcePathStyle: true,
    followRegionRedirects: true,
    // Newer checksums are unknown to many of them; the digest of the body is signed anyway.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // Done here, where bodies that break off are tried again too.
    maxAttempts: 1,
    requestHandler: {
      connectionTimeout: connectMs,
      requestTimeout: options.idleSeconds * 1000,
      throwOnRequestTimeout: true,
    },
  } as const;
  const client = new sdk.S3Client(settings);
  try {
    await client.config.region();
    return { sdk, client };
  } catch {
    // As the aws command does for S3.
    client.destroy();
    return { sdk, client: new sdk.S3Client({ ...settings, region: 'us-east-1' }) };
  }
}
