import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { writeModelJson } from './model-json.js';

it('writes floats as 1.0, integers as 1, and what JSON has no words for as Python does', () => {
  const folder = mkdtempSync(join(tmpdir(), 'model-json-'));
  const file = join(folder, 'config.json');
  writeModelJson(file, {
    initializer_factor: 1,
    attention_dropout: 0,
    layer_norm_eps: 1e-5,
    hidden_size: 8,
    lambda_min_clipped: -Infinity,
    text_config: { dropout: 0, vocab_size: 3 },
    name: 'initializer_factor',
  });
  const text = readFileSync(file, 'utf8');
  rmSync(folder, { recursive: true });
  expect(text).toBe(`{
  "initializer_factor": 1.0,
  "attention_dropout": 0.0,
  "layer_norm_eps": 0.00001,
  "hidden_size": 8,
  "lambda_min_clipped": -Infinity,
  "text_config": {
    "dropout": 0.0,
    "vocab_size": 3
  },
  "name": "initializer_factor"
}
`);
});
