/**
 * YAML of people's files, read within bounds: its package goes down one call for a level, compares
 * every key of a map with all before it, and a stack that runs out there can end the process.
 */
import {
  isScalar,
  Lexer,
  parseDocument,
  Parser,
  visit,
  type Document,
  type LineCounter,
} from 'yaml';
import { brief } from './brief.js';

/** Of lists and maps in each other. */
const deepest = 100;
const longestMessage = 300;

/** What is wrong with a text, and where. */
export interface YamlFault {
  message: string;
  offset: number;
  cause?: unknown;
}

export type YamlText =
  | { document: Document; fault?: never }
  | { document?: never; fault: YamlFault };

/** The document of a text, which may be JSON; or the first thing that is wrong with it. */
export function readYaml(text: string, lineCounter: LineCounter): YamlText {
  const deep = tooDeep(text);
  if (deep) {
    for (let at = 0; at >= 0; at = text.indexOf('\n', at) + 1 || -1) lineCounter.addNewLine(at);
    return { fault: deep };
  }
  const document = parseDocument(text, { lineCounter, prettyErrors: false, uniqueKeys: false });
  const [error] = document.errors;
  const fault: YamlFault | undefined = error
    ? { message: shortened(error.message), offset: error.pos[0], cause: error }
    : repeatedKey(document);
  return fault ? { fault } : { document };
}

/** The parser repeats what it does not understand. */
function shortened(message: string): string {
  return message.length > longestMessage ? `${message.slice(0, longestMessage)}…` : message;
}

/** Tokens alone are read without calls in each other. */
function tooDeep(text: string): YamlFault | undefined {
  const parser = new Parser();
  for (const lexeme of new Lexer().lex(text)) {
    for (const _token of parser.next(lexeme));
    if (parser.stack.length > deepest)
      return {
        message: `expected lists and maps in at most ${deepest} levels, got more`,
        offset: parser.offset,
      };
  }
  return undefined;
}

/** The first key that a map has before already. */
function repeatedKey(document: Document): YamlFault | undefined {
  let found: YamlFault | undefined;
  visit(document, {
    Map(_, map) {
      const seen = new Set<string>();
      for (const { key } of map.items) {
        if (!isScalar(key)) continue;
        // 1 and "1" are one key of an object.
        const name = String(key.value);
        if (seen.has(name)) {
          const message = `Map keys must be unique: ${brief(name)} is there twice`;
          found = { message, offset: key.range?.[0] ?? 0 };
          return visit.BREAK;
        }
        seen.add(name);
      }
      return undefined;
    },
  });
  return found;
}
