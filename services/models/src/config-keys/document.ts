/**
 * Renders docs/MODEL_CONFIGS.md from the tables, so that the page cannot disagree with the program.
 */
import { stringifyJson } from '../files/json.js';
import { everyConfig } from './every-config.js';
import type { ConfigKeys, KeyRule } from './rules.js';
import { notOfClass } from './schedulers.js';

const columns = 100;

const intro = [
  '# Model configs',
  'What becomes of every key of the configs in a model folder. A key that is read decides what is ' +
    'computed. Of a key that is refused only the named values are computed; another one is an ' +
    'error that names file, key and value. A key without effect may say what it likes. Keys that ' +
    'no library knows (of a newer one, or typing errors) are named once in a warning.',
  "An absent key is the library's default. `null` is a value of its own: it is false where the " +
    'library asks a yes or no of it, and refused where the library would fail.',
  'Some files are read together, as diffusers does:',
  '- The class that `model_index.json` names for the scheduler reads `scheduler_config.json`, ' +
    'whatever class that file names.\n' +
    "- Stable Diffusion's pipeline (1.x, 2.x) draws with `steps_offset` 1 and `clip_sample` " +
    'false, whatever the file says; SDXL takes what the file says. `sampling.overrides` ' +
    'goes above both.\n' +
    '- A `sample_size` of a U-Net may be height and width. Below 64 it counts as 64 in files of ' +
    'before diffusers 0.9.\n' +
    '- `text_config_dict` and `vision_config_dict` of a judge, with the defaults of the library, ' +
    'take the place of `text_config` and `vision_config`.',
  'This page is generated from the tables in `services/models/src/config-keys` (`npm run ' +
    'generate`).',
];

/** Greedy lines of at most 100 columns; the second and later ones of a list's item are indented. */
function wrapped(paragraph: string): string {
  return paragraph
    .split('\n')
    .map((text) => {
      const indent = text.startsWith('- ') ? '  ' : '';
      const lines: string[] = [];
      let line = '';
      for (const word of text.match(/(?:`[^`]*`|[^\s`])+/g) ?? []) {
        const longer = line === '' ? word : `${line} ${word}`;
        if (longer.length <= columns || line === '') line = longer;
        else {
          lines.push(line);
          line = indent + word;
        }
      }
      return [...lines, line].join('\n');
    })
    .join('\n');
}

function groupOf(rule: KeyRule): string {
  switch (rule.kind) {
    case 'read':
      return 'Read';
    case 'refused':
      return `Refused unless ${rule.unless.map((value) => `\`${stringifyJson(value)}\``).join(' or ')}`;
    case 'no effect':
      return `No effect, as ${rule.why}`;
  }
}

function section({ of, file, keys }: ConfigKeys): string {
  const groups = new Map<string, string[]>();
  for (const [key, rule] of Object.entries(keys)) {
    if (rule === notOfClass) continue;
    const group = groupOf(rule);
    groups.set(group, [...(groups.get(group) ?? []), `\`${key}\``]);
  }
  const order = ['Read', 'Refused', 'No effect'];
  const rank = (group: string): number => order.findIndex((kind) => group.startsWith(kind));
  const items = [...groups]
    .sort(([a], [b]) => rank(a) - rank(b))
    .map(([group, names]) => `- ${group}: ${names.join(', ')}.`);
  return `## ${of}: ${file}\n\n${wrapped(items.join('\n'))}`;
}

export function modelConfigsPage(): string {
  return `${[...intro.map(wrapped), ...everyConfig.map(section)].join('\n\n')}\n`;
}
