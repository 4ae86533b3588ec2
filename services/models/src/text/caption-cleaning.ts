/**
 * What open_clip does to a text before its tokenizer sees it: ftfy's repairs, HTML entities twice,
 * white space to single spaces. Judges in open_clip's layout (HPSv2) were trained on captions that
 * went through it.
 *
 * Of ftfy this has what captions meet: UTF-8 that was read as Windows-1252 (once or several times
 * over), C1 controls, curly quotes, ligatures, full-width letters, control characters, NFC. It does
 * not repair other encodings, nor a text in which mojibake of other than Latin letters and
 * punctuation is mixed with whole letters beyond ASCII. Entities are HTML 4's Latin-1 and its
 * punctuation, and numbers.
 */

/**
 * Windows-1252 for bytes 80 to 9F; where it has none, Python's "sloppy" form keeps the C1 control.
 */
const windows1252 = '€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ';

/** Text is misread a few times over; one that was made up could ask for a repair per letter. */
const mostRepairs = 32;

export function cleanCaption(text: string): string {
  return unescapeHtml(unescapeHtml(repair(text)))
    .replace(/\s+/gu, ' ')
    .trim();
}

function repair(text: string): string {
  // ftfy leaves entities of what looks like HTML; they are resolved afterwards all the same.
  let repaired = text.includes('<') ? text : unescapeHtml(text);
  // eslint-disable-next-line no-control-regex -- terminal colours
  repaired = repaired.replace(/\u001b\[[0-9;]*[A-Za-z]/gu, '');
  for (let times = 0, before = ''; before !== repaired && times < mostRepairs; times++) {
    before = repaired;
    repaired = repairMojibake(repaired);
  }
  return (
    repaired
      .replace(/[\u0080-\u009f]/gu, (c) => windows1252[c.charCodeAt(0) - 0x80] ?? c)
      .replace(/[ﬀ-ﬆĲĳŉǅ-ǌǱ-ǳ]/gu, (c) => c.normalize('NFKC'))
      .replace(/[\u3000\uff01-\uff5e\uffe0-\uffe6]/gu, (c) => c.normalize('NFKC'))
      .replace(/[‘’‚‛ʼ]/gu, "'")
      .replace(/[“”„‟]/gu, '"')
      // eslint-disable-next-line no-control-regex -- those are what goes
      .replace(/[\u0000-\u0008\u000b\u000e-\u001f\u007f\u206a-\u206f\ufeff\ufff9-\ufffc]/gu, '')
      .normalize('NFC')
  );
}

/** One byte of each character of Windows-1252. */
const byteOf = new Map<string, number>([
  ...Array.from({ length: 96 }, (_, i) => [String.fromCharCode(0xa0 + i), 0xa0 + i] as const),
  ...Array.from(windows1252, (c, i) => [c, 0x80 + i] as const),
  // Where the text was read as Latin-1, the bytes from 80 are C1 controls.
  ...Array.from({ length: 32 }, (_, i) => [String.fromCharCode(0x80 + i), 0x80 + i] as const),
]);

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Sequences of characters whose bytes are a UTF-8 character. All kinds of them where everything
 * beyond ASCII is one; else those that begin as Latin letters, punctuation and emoji do, whose
 * first characters hardly ever stand before such others.
 */
function repairMojibake(text: string): string {
  const characters = Array.from(text);
  let whole = true;
  const parts: { from: string; to: string | null; usual: boolean }[] = [];
  for (let at = 0; at < characters.length; ) {
    const first = characters[at] ?? '';
    const lead = byteOf.get(first);
    const length = lead === undefined ? 1 : sequenceLength(lead);
    const from = characters.slice(at, at + length);
    const to = length > 1 ? decode(from) : null;
    if (to === null) {
      if (first > '\u007f') whole = false;
      parts.push({ from: first, to: null, usual: false });
      at++;
    } else {
      parts.push({ from: from.join(''), to, usual: 'ÂÃâð'.includes(first) });
      at += length;
    }
  }
  return parts.map(({ from, to, usual }) => (to !== null && (whole || usual) ? to : from)).join('');
}

/** 1 where no sequence begins. */
function sequenceLength(lead: number): number {
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  return lead >= 0xf0 && lead <= 0xf4 ? 4 : 1;
}

function decode(characters: readonly string[]): string | null {
  // A space is what became of a no-break space, byte A0, on the way.
  const bytes = characters.map(
    (c, i) => byteOf.get(c) ?? (c === ' ' && i > 0 && characters[0] === 'Ã' ? 0xa0 : undefined),
  );
  if (bytes.some((byte) => byte === undefined)) return null;
  try {
    return strict.decode(Uint8Array.from(bytes as number[]));
  } catch {
    return null;
  }
}

/** Names of U+00A0 to U+00FF, which count without a semicolon too. */
const latin1 =
  'nbsp iexcl cent pound curren yen brvbar sect uml copy ordf laquo not shy reg macr deg ' +
  'plusmn sup2 sup3 acute micro para middot cedil sup1 ordm raquo frac14 frac12 frac34 iquest ' +
  'Agrave Aacute Acirc Atilde Auml Aring AElig Ccedil Egrave Eacute Ecirc Euml Igrave Iacute ' +
  'Icirc Iuml ETH Ntilde Ograve Oacute Ocirc Otilde Ouml times Oslash Ugrave Uacute Ucirc ' +
  'Uuml Yacute THORN szlig ' +
  'agrave aacute acirc atilde auml aring aelig ccedil egrave eacute ecirc euml igrave iacute ' +
  'icirc iuml eth ntilde ograve oacute ocirc otilde ouml divide oslash ugrave uacute ucirc ' +
  'uuml yacute thorn yuml';
const withoutSemicolon = new Map<string, string>([
  ...latin1.split(' ').map((name, i) => [name, String.fromCharCode(0xa0 + i)] as const),
  ...Object.entries({
    amp: '&',
    AMP: '&',
    lt: '<',
    LT: '<',
    gt: '>',
    GT: '>',
    quot: '"',
    QUOT: '"',
  }),
]);
const named = new Map<string, string>([
  ...withoutSemicolon,
  ...Object.entries({
    ...{
      apos: "'",
      ndash: '–',
      mdash: '—',
      lsquo: '‘',
      rsquo: '’',
      sbquo: '‚',
      ldquo: '“',
      rdquo: '”',
      bdquo: '„',
      hellip: '…',
    },
    ...{
      bull: '•',
      dagger: '†',
      Dagger: '‡',
      permil: '‰',
      prime: '′',
      Prime: '″',
      lsaquo: '‹',
      rsaquo: '›',
      euro: '€',
      trade: '™',
    },
    ...{
      larr: '←',
      uarr: '↑',
      rarr: '→',
      darr: '↓',
      harr: '↔',
      hearts: '♥',
      spades: '♠',
      clubs: '♣',
      diams: '♦',
      star: '☆',
    },
    ...{
      infin: '∞',
      ne: '≠',
      le: '≤',
      ge: '≥',
      asymp: '≈',
      minus: '−',
      ensp: '\u2002',
      emsp: '\u2003',
      thinsp: '\u2009',
    },
    ...{
      OElig: 'Œ',
      oelig: 'œ',
      Scaron: 'Š',
      scaron: 'š',
      Yuml: 'Ÿ',
      fnof: 'ƒ',
      circ: 'ˆ',
      tilde: '˜',
      zwnj: '\u200c',
      zwj: '\u200d',
    },
  }),
]);

/**
 * As Python's html.unescape, for the names above: numbers by the rules of HTML 5, old names without
 * semicolon by their longest beginning.
 */
function unescapeHtml(text: string): string {
  return text.replace(
    /&(?:#(\d+);?|#[xX]([0-9a-fA-F]+);?|([A-Za-z][A-Za-z0-9]{0,31})(;?))/gu,
    (all, decimal, hex, name, semicolon) => {
      if (name === undefined)
        return numbered(
          Number.parseInt((decimal ?? hex) as string, decimal === undefined ? 16 : 10),
        );
      const word = name as string;
      const exact = semicolon === ';' ? named.get(word) : undefined;
      if (exact !== undefined) return exact;
      for (let length = word.length; length > 1; length--) {
        const found = withoutSemicolon.get(word.slice(0, length));
        if (found !== undefined) return `${found}${word.slice(length)}${semicolon as string}`;
      }
      return all;
    },
  );
}

function numbered(code: number): string {
  if (code >= 0x80 && code <= 0x9f) return windows1252[code - 0x80] ?? '';
  if (code === 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return '\ufffd';
  const control = code < 0x20 && ![0x9, 0xa, 0xc, 0xd].includes(code);
  // Not characters, by Unicode.
  return control ||
    code === 0x7f ||
    (code >= 0xfdd0 && code <= 0xfdef) ||
    (code & 0xfffe) === 0xfffe
    ? ''
    : String.fromCodePoint(code);
}
