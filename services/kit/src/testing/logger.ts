import { createLogger } from '../logger.js';

/** Silent unless SPINDLE_TEST_LOG names a level. */
export const logger = createLogger('test', {
  level: process.env['SPINDLE_TEST_LOG'] ?? 'silent',
  pretty: false,
});
