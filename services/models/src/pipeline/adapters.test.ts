import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { adaptedUnet, loraFile, loraParts, withAdaptedText } from './adapters.js';
import type { TextTower } from './pipeline.js';

const scratch = mkdtempSync(join(tmpdir(), 'adapters-'));
afterAll(() => rmSync(scratch, { recursive: true }));

function folder(name: string, files: string[]): string {
  const path = join(scratch, name);
  mkdirSync(path);
  for (const file of files) writeFileSync(join(path, file), '');
  return path;
}

describe('a LoRA file', () => {
  it.each(['pytorch_lora_weights.safetensors', 'adapter_model.safetensors'])(
    'is %s of a folder',
    (name) => {
      const path = folder(`of-${name}`, [name, 'adapter_config.json']);
      expect(loraFile(path)).toBe(join(path, name));
    },
  );

  it('is the file that is named', () => {
    const file = join(folder('plain', ['x.safetensors']), 'x.safetensors');
    expect(loraFile(file)).toBe(file);
    expect(loraParts(file)).toEqual([file]);
  });

  it('is refused where a folder has none or two, and where it is a pickle', () => {
    expect(() => loraFile(folder('none', ['x.safetensors']))).toThrow(
      /none: expected a LoRA file, or a folder with pytorch_lora_weights\.safetensors or adapter_model\.safetensors, got a folder with neither/,
    );
    const both = folder('both', ['pytorch_lora_weights.safetensors', 'adapter_model.safetensors']);
    expect(() => loraFile(both)).toThrow(/got a folder with both/);
    const peft = folder('peft', ['adapter_model.safetensors', 'adapter_config.json']);
    expect(loraParts(loraFile(peft))).toEqual([
      join(peft, 'adapter_model.safetensors'),
      join(peft, 'adapter_config.json'),
    ]);
    expect(() => loraFile('/x/adapter_model.bin')).toThrow(
      /pickle files are refused .* npx spindle convert \/x\/adapter_model\.bin --to \/x\/adapter_model\.safetensors/,
    );
  });
});

const source = (label: string): TextTower['source'] => ({ config: '{}', weights: [], label });
const pipeline = (towers: number): { textTowers: TextTower[] } => ({
  textTowers: Array.from({ length: towers }, (_, n) => ({
    source: source(`text ${n}`),
    tokenizer: undefined as never,
    tokens: 77,
    width: 8,
  })),
});

it('each part of a pipeline takes its own of every file, and all parts are named to it', () => {
  const files = [
    { path: 'a', scale: 0.5 },
    { path: 'b', scale: -1 },
  ];
  const single = ['unet', 'text_encoder'];
  const double = ['unet', 'text_encoder', 'text_encoder_2'];
  for (const [towers, components] of [
    [1, single],
    [2, double],
  ] as const) {
    const model = pipeline(towers);
    const target = (component: string): object[] =>
      files.map((file) => ({ ...file, target: { component, components } }));
    expect(adaptedUnet(model, source('unet'), files)).toEqual({
      ...source('unet'),
      adapters: target('unet'),
    });
    expect(withAdaptedText(model, files).textTowers.map((tower) => tower.source)).toEqual(
      components
        .slice(1)
        .map((component, n) => ({ ...source(`text ${n}`), adapters: target(component) })),
    );
    expect(adaptedUnet(model, source('unet'), [])).toEqual(source('unet'));
    expect(withAdaptedText(model, [])).toEqual(model);
  }
});
