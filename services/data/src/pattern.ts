/** Patterns of file names, in which "*" stands for any characters but "/". */

/**
 * Whether a name fits. The last star takes one character more where the rest does not follow: of
 * stars, only the newest can be wrong, so that a name takes at most its length times the pattern's.
 */
export function fitsPattern(name: string, pattern: string): boolean {
  let at = 0;
  let part = 0;
  /** Behind the newest star, and how far it has reached. */
  let star = -1;
  let taken = 0;
  while (at < name.length) {
    if (pattern[part] === '*') {
      star = ++part;
      taken = at;
    } else if (pattern[part] === name[at]) {
      part += 1;
      at += 1;
    } else if (star >= 0 && name[taken] !== '/') {
      part = star;
      at = ++taken;
    } else return false;
  }
  while (pattern[part] === '*') part += 1;
  return part === pattern.length;
}
