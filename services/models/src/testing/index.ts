export { oddValue } from './odd-value.js';
