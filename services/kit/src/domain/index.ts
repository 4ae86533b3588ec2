export {
  correctTogether,
  holm,
  verdictOf,
  verdictText,
  type Against,
  type Verdict,
} from './comparison.js';
export { epochOrder, type OrderKey } from './epoch-order.js';
export { normals, philox, uniform, type Words } from './philox.js';
