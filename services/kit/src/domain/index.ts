export { normals, philox, uniform, type Words } from './philox.js';
