import { serviceEnvironment } from '@spindle/mesh';
import { z } from 'zod';

/** What the process reads from its environment: it needs neither a queue nor an engine. */
export const environmentSchema = z.object(serviceEnvironment);
