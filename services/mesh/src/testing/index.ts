/** Helpers for tests of every package; no product code imports them. */
export { sampleJob, startTestNats, type TestNats } from './nats.js';
