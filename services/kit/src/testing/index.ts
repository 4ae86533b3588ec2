/** Helpers for tests of every package; no product code imports them. */
export { logger } from './logger.js';
export { startTestS3, type TestS3 } from './s3.js';
export { everyBitFlip } from './bit-flips.js';
export { Scratch } from './fuzz/scratch.js';
export type { FuzzTarget } from './fuzz/target.js';
export { TestAuthority, writeCertificate, type TestCertificate } from './certificates.js';
