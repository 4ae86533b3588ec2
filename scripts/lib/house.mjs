// Figures of sources, from their texts.

/** The value below which a share of sorted numbers lies. */
function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}

function spread(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return [0.5, 0.9, 1].map((share) => quantile(sorted, share)).join('/');
}

/** Files, lines, lines per file, columns per line (blank ones left out), shares of long lines. */
export function lineFigures(files) {
  const perFile = files.map(({ text }) => text.split('\n').length - 1);
  const columns = files.flatMap(({ text }) =>
    text.split('\n').flatMap((line) => (line.trim() === '' ? [] : [[...line].length])),
  );
  const beyond = (limit) =>
    `${((100 * columns.filter((n) => n > limit).length) / Math.max(1, columns.length)).toFixed(2)} ` +
    '%';
  const lines = perFile.reduce((sum, n) => sum + n, 0);
  return [
    String(files.length),
    String(lines),
    spread(perFile),
    spread(columns),
    beyond(100),
    beyond(120),
  ];
}

/** Exported declarations, and how many of them have a doc comment that ends on the line above. */
export function exportFigures(files) {
  let exported = 0;
  let documented = 0;
  for (const { text } of files) {
    const lines = text.split('\n');
    for (const [i, line] of lines.entries()) {
      if (!/^export (async )?(function|class|interface|type|const|enum|abstract)\b/.test(line)) {
        continue;
      }
      exported++;
      if (lines[i - 1]?.trimEnd().endsWith('*/')) documented++;
    }
  }
  return { documented, exported };
}

/** Paths of the files in which the pattern occurs. */
export function wordFiles(files, pattern) {
  return files.filter(({ text }) => pattern.test(text)).map(({ path }) => path);
}
