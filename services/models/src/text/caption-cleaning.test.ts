import { describe, expect, it } from 'vitest';
import { cleanCaption } from './caption-cleaning.js';

/** Text as UTF-8 that was read as Latin-1, where every byte is a character. */
const misread = (text: string): string => Buffer.from(text, 'utf8').toString('latin1');

describe('a caption', () => {
  it.each([
    ['plain text', 'a red fox, 35mm', 'a red fox, 35mm'],
    ['white space', '  a\tred\n\n fox\u00a0! ', 'a red fox !'],
    [
      'entities',
      'Tom &amp; Jerry &lt;3 &quot;x&quot; &#39;y&#x27; caf&eacute;',
      `Tom & Jerry <3 "x" 'y' café`,
    ],
    ['entities twice over', 'Tom &amp;amp; Jerry', 'Tom & Jerry'],
    ['entities beside a tag', '<b>&amp;lt;', '<b><'],
    [
      'old names without a semicolon, but no others',
      '&copy 2020 &ampersand &hellip x',
      '© 2020 &ersand &hellip x',
    ],
    ['unknown names', 'AT&T &unknown; &', 'AT&T &unknown; &'],
    // &#150; is a dash of Windows-1252, as HTML 5 reads it.
    ['numbers beyond Latin-1', '&#8212; &#x1F98A; &#150; &#0;', '— 🦊 – \ufffd'],
    ['curly quotes', '“It’s” ‘so’', `"It's" 'so'`],
    ['ligatures and full-width letters', 'ﬁne ＡＢＣ１２３！', 'fine ABC123!'],
    ['composed letters', 'cafe\u0301', 'café'],
    ['control characters', 'a\u0000b\u0008\ufeffc', 'abc'],
  ])('%s', (_name, text, expected) => {
    expect(cleanCaption(text)).toBe(expected);
  });
});

describe('UTF-8 that was read as Windows-1252', () => {
  it.each([
    ['letters', 'schÃ¶n', 'schön'],
    ['punctuation', 'Libraryâ€¦ donâ€™t', "Library… don't"],
    ['twice over', 'LibraryÃ¢â‚¬Â¦', 'Library…'],
    ['emoji', 'a ðŸ¦Š', 'a 🦊'],
    ['beside what is whole', 'l’humanitÃ©', "l'humanité"],
    ['another script, throughout', misread('рыжая лиса'), 'рыжая лиса'],
  ])('is repaired: %s', (_name, text, expected) => {
    expect(cleanCaption(text)).toBe(expected);
  });

  it.each([
    'CAFÉ NÃO',
    'âge, Ève, ÉTÉ',
    'naïve façade – 30 °C',
    '½ × ¼',
    'рыжая лиса',
    '赤い狐',
    'Ünïcödé',
  ])('leaves %s', (text) => {
    expect(cleanCaption(text)).toBe(text);
  });

  it('that asks for another repair per letter is read in a moment', () => {
    const started = performance.now();
    expect(cleanCaption(`\u0192\u00c3${'\u0192'.repeat(50_000)}`)).toMatch(/^\u0192\u00c3/u);
    expect(performance.now() - started).toBeLessThan(10_000);
  });

  it('is left, as a limit, where another script is mixed with whole letters', () => {
    const mixed = `${misread('лиса')} 狐`;
    expect(cleanCaption(mixed)).not.toContain('лиса');
  });
});
