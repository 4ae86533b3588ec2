export {
  correctTogether,
  holm,
  verdictOf,
  verdictText,
  type Against,
  type Verdict,
} from './comparison.js';
export { normals, philox, uniform, type Words } from './philox.js';
