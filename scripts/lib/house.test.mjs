import { describe, expect, it } from 'vitest';
import { exportFigures, lineFigures, wordFiles } from './house.mjs';

const file = (text) => ({ path: 'a.ts', text });

describe('lineFigures', () => {
  it('counts lines with their ends, columns of those that are not blank, and long ones', () => {
    const long = 'x'.repeat(101);
    expect(lineFigures([file(`abc\n\n${long}\n`), file('a\n')])).toEqual([
      '2',
      '4',
      '3/3/3',
      '3/101/101',
      '33.33 %',
      '0.00 %',
    ]);
  });

  it('has figures for no files at all', () => {
    expect(lineFigures([])).toEqual(['0', '0', '0/0/0', '0/0/0', '0.00 %', '0.00 %']);
  });
});

describe('exportFigures', () => {
  it('tells exports with a doc comment from those without', () => {
    const text = '/** What it is. */\nexport function a() {}\nexport const b = 1;\nconst c = 2;\n';
    expect(exportFigures([file(text)])).toEqual({ documented: 1, exported: 2 });
  });
});

describe('wordFiles', () => {
  it('names the files in which a pattern occurs', () => {
    const files = [file('weightDecay: 1'), { path: 'b.h', text: 'double weight_decay;' }];
    expect(wordFiles(files, /\bweight_decay\b/)).toEqual(['b.h']);
  });
});
