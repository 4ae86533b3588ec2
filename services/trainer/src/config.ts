export { environmentSchema, pickEnvironment, type Environment } from '@spindle/kit';
