import { crc32, deflateSync } from 'node:zlib';

/** A small picture whose colours come from a hexadecimal digest. For tests only. */
export function solidPng(digest: string, side = 32): Buffer {
  const rgb = (offset: number): number[] =>
    [0, 2, 4].map((i) => parseInt(digest.slice(offset + i, offset + i + 2), 16));
  const [ground, figure] = [rgb(0), rgb(6)];
  const rows = Array.from({ length: side }, (_, y) => {
    const pixels = Array.from({ length: side }, (__, x) =>
      (x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 3) ** 2 ? figure : ground,
    );
    return Buffer.from([0, ...pixels.flat()]);
  });
  const header = Buffer.alloc(13);
  header.writeUInt32BE(side, 0);
  header.writeUInt32BE(side, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(Buffer.concat(rows))),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  const check = Buffer.alloc(4);
  check.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, check]);
}
