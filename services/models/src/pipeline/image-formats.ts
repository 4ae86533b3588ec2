/** Which image formats are read, and what other ones are called: told from a file's first bytes. */
import { invalid } from '@spindle/native';

/** As messages name them. */
export const supportedImages = 'png, jpeg, webp, gif, tiff or avif';

const signatures: readonly (readonly [name: string, at: number, bytes: string])[] = [
  ['BMP', 0, 'BM'],
  ['JPEG XL', 0, '\xff\x0a'],
  ['JPEG XL', 4, 'JXL '],
  ['JPEG 2000', 4, 'jP  '],
  ['PSD', 0, '8BPS'],
  ['ICO', 0, '\x00\x00\x01\x00'],
  ['OpenEXR', 0, 'v/1\x01'],
  ['DDS', 0, 'DDS '],
  ...['heic', 'heix', 'heim', 'heis', 'hevc', 'hevx'].map(
    (brand) => ['HEIC', 4, `ftyp${brand}`] as const,
  ),
];

/** Throws for a file in a format that is known and not read: it is whole, so say what it is. */
export function refuseUnsupportedImage(bytes: Uint8Array, where: string): void {
  const head = Buffer.from(bytes.subarray(0, 32)).toString('latin1');
  const found = signatures.find(([, at, mark]) => head.startsWith(mark, at));
  // "mif1" names HEIF of any codec; the brands behind it tell HEIC from AVIF.
  const heic = head.startsWith('ftypmif1', 4) && head.includes('heic', 12);
  const name = found?.[0] ?? (heic ? 'HEIC' : undefined);
  if (name !== undefined)
    throw invalid(where, `${name} is not supported; expected ${supportedImages}`);
}
