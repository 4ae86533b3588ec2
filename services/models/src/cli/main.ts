import { printable, printableJson } from '@spindle/kit';
import { runCli } from './program.js';

await runCli(process.argv.slice(2), {
  addon: process.env['SPINDLE_ADDON'] || undefined,
  write: (line) =>
    process.stdout.write(`${line.startsWith('{') ? printableJson(line) : printable(line)}\n`),
  warn: (line) => process.stderr.write(`${printable(line)}\n`),
  setExitCode: (code) => {
    process.exitCode = code;
  },
});
