/** How large the parts of a data set's files may be; docs/DATA.md says the same. */

/** Characters of a line, or of a record of a CSV file. */
export const longestLine = 16 << 20;
/** Characters of a caption or prompt: models see some 300, and composing takes their square. */
export const longestCaption = 1 << 16;
/** Bytes of a JSON file of prompts, which is read whole. */
export const largestPromptFile = 64 << 20;
/** Held-out prompts of one file. */
export const mostPrompts = 1_000_000;
