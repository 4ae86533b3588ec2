// `npm run verify`: the check, then every test, whatever the check said; the last line counts both.
// Takes what `npm test` takes. CI calls nothing else.
import { parseArgs } from 'node:util';
import { check } from './check.mjs';
import { main, phase } from './lib/phase.mjs';
import { conclude, runTests, testOptions } from './test.mjs';

await main(async () => {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    allowNegative: true,
    options: testOptions,
  });
  const checked = { name: 'check', exitCode: 0, passed: 0, failed: 0 };
  await phase('check', async () => {
    for (const { ok } of await check()) checked[ok ? 'passed' : 'failed']++;
  });
  return conclude([checked, ...(await runTests(values, positionals))]);
});
