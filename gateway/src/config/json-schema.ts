import { z } from 'zod';
import { runConfigSchema } from './schema.js';

export interface JsonSchema {
  description?: string;
  type?: string;
  default?: unknown;
  enum?: unknown[];
  const?: unknown;
  pattern?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  anyOf?: JsonSchema[];
  items?: JsonSchema;
  properties?: Record<string, JsonSchema>;
  required?: string[];
  additionalProperties?: boolean | JsonSchema;
}

/**
 * What editors check a config with while it is written; every key carries its description and
 * default.
 */
export function runConfigJsonSchema(): JsonSchema {
  return z.toJSONSchema(runConfigSchema, {
    io: 'input',
    override({ jsonSchema }) {
      // zod writes the safe-integer bound on every integer; it says nothing to a reader.
      if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
    },
  }) as JsonSchema;
}
