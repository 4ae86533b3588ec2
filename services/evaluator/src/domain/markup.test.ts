import { expect, it } from 'vitest';
import { Markup, markup, nothing } from './markup.js';

it('escapes text, in attributes too, and takes markup and lists of it as they are', () => {
  const cells = ['<b>', "it's"].map((text) => markup`<td title="${text}">${text}</td>`);
  expect(markup`<tr>${cells}${nothing}${3}</tr>`.text).toBe(
    '<tr><td title="&lt;b&gt;">&lt;b&gt;</td><td title="it&#39;s">it&#39;s</td>3</tr>',
  );
  expect(markup`<style>${new Markup('a > b {}')}</style>`.text).toBe('<style>a > b {}</style>');
});

it('has the line breaks of templates as JSX has them, and those of text as they are', () => {
  const page = markup`
    <p
      class="a"
      id="${'x'}"
    >
      Two words
      and two.
      ${'one\n  two'}
      <br/>
    </p>`;
  expect(page.text).toBe('<p class="a" id="x">Two words and two.one\n  two<br/></p>');
});
