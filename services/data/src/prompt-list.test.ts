import { expect, it } from 'vitest';
import { parsePromptList, writePromptList } from './prompt-list.js';

it('is a JSON array whose prompts are bare texts where they have no category', () => {
  const prompts = [
    { prompt: 'a cat', category: '' },
    { prompt: 'a dog', category: 'animals' },
    { prompt: 'a cat', category: '', set: 'parti' },
  ];
  const json = writePromptList(prompts);
  expect(json).toBe(
    '["a cat",{"prompt":"a dog","category":"animals"},' +
      '{"prompt":"a cat","category":"","set":"parti"}]',
  );
  expect(parsePromptList(json)).toEqual(prompts);
});

it.each([
  ['nothing', 'list of prompts: expected a JSON array, got text that does not parse'],
  ['{}', 'list of prompts: expected a JSON array, got an object'],
  [
    '["a",3]',
    'list of prompts: expected a text, or {"prompt": text, "category": text, "set": text}, at 1, got a number',
  ],
])('that is something else is refused by name: %s', (json, message) => {
  expect(() => parsePromptList(json)).toThrow(
    expect.objectContaining({ code: 'DATA_LOSS', message }) as Error,
  );
});
