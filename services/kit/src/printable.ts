/**
 * Text from elsewhere (names of files, rows, models) as it may be printed: a terminal obeys control
 * characters and marks that turn the direction of text, so they are written as their numbers.
 */

/** Line ends and tabs stay. */
const obeyed =
  // eslint-disable-next-line no-control-regex -- they are what is looked for
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;

/** The text with such characters as \xNN or \uNNNN. */
export function printable(text: string): string {
  return text.replace(obeyed, (char) => {
    const code = char.charCodeAt(0).toString(16);
    return code.length > 2 ? `\\u${code.padStart(4, '0')}` : `\\x${code.padStart(2, '0')}`;
  });
}

/** JSON that a terminal may show, and whoever reads it finds unchanged. */
export function printableJson(json: string): string {
  return json.replace(obeyed, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
