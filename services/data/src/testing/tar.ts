/** Tar files made by hand, so that they can be wrong. For tests only. */

/** A file's name and content, and if need be the data of a pax header before it. */
export type TarEntry = readonly [name: string, content: string, pax?: string];

/** `size`: what a pax header of every member says of its size. */
export function tarOf(entries: readonly TarEntry[], { size }: { size?: string } = {}): Buffer {
  const blocks = entries.flatMap(([name, content, pax]) => [
    ...(size === undefined ? [] : member('pax', paxRecord('size', size), 'x')),
    ...(pax === undefined ? [] : member('pax', pax, 'x')),
    ...member(name, content, '0'),
  ]);
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  const digits = String(rest.length + 2).length;
  return `${rest.length + digits}${rest}`;
}

function member(name: string, content: string, type: string): Buffer[] {
  const data = Buffer.from(content);
  const header = Buffer.alloc(512);
  header.write(name, 0, 100);
  header.write('0000644\0', 100);
  header.write(`${data.length.toString(8).padStart(11, '0')}\0`, 124);
  header.write(' '.repeat(8), 148);
  header.write(type, 156);
  header.write('ustar\x0000', 257, 'latin1');
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return [header, data, Buffer.alloc((512 - (data.length % 512)) % 512)];
}
