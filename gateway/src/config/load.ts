import { dirname, resolve } from 'node:path';
import { parseConfig, parseYamlFile } from '@spindle/kit';
import { checkConfig, resolvePaths } from './resolve.js';
import { runConfigSchema, type RunConfig } from './schema.js';

/** A config file as a person wrote it, with every default filled in and absolute paths. */
export function loadRunConfig(file: string): RunConfig {
  const config = resolvePaths(parseYamlFile(runConfigSchema, file), dirname(resolve(file)));
  checkConfig(config, file);
  return config;
}

/** A config as it arrives over gRPC: JSON, absolute paths. */
export function parseRunConfig(value: unknown, where: string): RunConfig {
  const config = parseConfig(runConfigSchema, value, where);
  checkConfig(config, where);
  return config;
}
