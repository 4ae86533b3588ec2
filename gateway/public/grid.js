/** The sample grid: one card per prompt, the models side by side. */
import { colorOf } from './charts.js';

const lightbox = document.getElementById('lightbox');
lightbox.addEventListener('click', () => lightbox.close());
lightbox.addEventListener('close', () => lightbox.replaceChildren());

let shownFor = '';

export async function updateGrid(host, runId) {
  const response = await fetch(`/api/runs/${encodeURIComponent(runId)}/images`);
  if (!response.ok) return;
  const { prompts, models } = await response.json();
  const key = JSON.stringify([runId, models]);
  // Rebuilding would make every image flicker.
  if (key === shownFor) return;
  shownFor = key;
  if (models.length === 0) {
    const hint = document.createElement('p');
    hint.className = 'hint';
    hint.textContent =
      prompts.length === 0
        ? 'This run has no evaluation prompts.'
        : 'Images appear as soon as the first model is evaluated.';
    host.replaceChildren(hint);
    return;
  }
  const cards = prompts.map(({ index, prompt }) => {
    const card = document.createElement('figure');
    card.className = 'sample';
    const caption = document.createElement('figcaption');
    caption.textContent = prompt;
    const row = document.createElement('div');
    row.append(
      ...models.map(({ model, indices }) =>
        labelled(
          model,
          indices.includes(index) ? picture(runId, model, index, prompt) : placeholder(),
        ),
      ),
    );
    card.append(caption, row);
    return card;
  });
  host.replaceChildren(...cards);
}

function labelled(model, content) {
  const box = document.createElement('div');
  const label = document.createElement('span');
  const swatch = document.createElement('span');
  swatch.className = 'swatch';
  swatch.style.background = colorOf(model);
  label.append(swatch, model);
  box.append(content, label);
  return box;
}

function picture(runId, model, index, prompt) {
  const image = document.createElement('img');
  image.src = `/api/runs/${encodeURIComponent(runId)}/images/${model}/${index}.png`;
  image.alt = `${model}: ${prompt}`;
  image.loading = 'lazy';
  image.addEventListener('click', () => {
    const large = document.createElement('img');
    large.src = image.src;
    large.alt = image.alt;
    const label = document.createElement('p');
    label.textContent = image.alt;
    lightbox.replaceChildren(large, label);
    lightbox.showModal();
  });
  return image;
}

function placeholder() {
  const box = document.createElement('div');
  box.className = 'none';
  return box;
}
