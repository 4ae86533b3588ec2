import { ServerInterceptingCall, type Metadata, type ServerInterceptor } from '@grpc/grpc-js';
import { service as healthService } from 'grpc-health-check';
import { SpindleError } from '../errors.js';
import { bearerOf, reaches, roles, type Caller, type People, type Role } from '../people.js';
import { sameToken } from '../token.js';
import { toStatus } from './status.js';

/** Whoever watches processes knows no token; health says whether one serves, nothing else. */
const open: ReadonlySet<string> = new Set(Object.values(healthService).map(({ path }) => path));
/** Metadata that this door sets, and nobody before it. */
const callerKey = 'spindle-caller';

/** Who may come in, and how far. */
export interface Door {
  /** The mesh's: who shows it is an admin. */
  token: string;
  people?: People | undefined;
  /** Of a method's path; who has less is refused. */
  leastRole?: ((path: string) => Role) | undefined;
  /** Told of calls of those who have less. */
  onDenied?: ((caller: Caller, path: string) => void) | undefined;
}

/**
 * Ends calls that do not show a token, or one of a lesser role than they ask, before anything of
 * theirs is read.
 */
export function askForToken(door: Door): ServerInterceptor {
  return (method, call) =>
    new ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onReceiveMetadata: (metadata, receive) => {
            const [header] = metadata.get('authorization');
            metadata.remove('authorization');
            metadata.remove(callerKey);
            if (open.has(method.path)) return receive(metadata);
            const caller = callerOf(header?.toString(), door);
            if (caller === undefined) return call.sendStatus(refusal(header === undefined));
            const least = door.leastRole?.(method.path) ?? 'admin';
            if (!reaches(caller.role, least)) {
              door.onDenied?.(caller, method.path);
              return call.sendStatus(denial(caller, method.path, least));
            }
            metadata.set(callerKey, `${caller.role} ${caller.name}`);
            receive(metadata);
          },
        }),
    });
}

/** Whom the door let in. */
export function readCaller(metadata: Metadata): Caller | undefined {
  const [role, name] = String(metadata.get(callerKey)[0] ?? '').split(' ');
  const known = roles.find((one) => one === role);
  return known === undefined || name === undefined ? undefined : { name, role: known };
}

/** Who shows this header; undefined for nobody that is known. */
export function callerOf(
  header: string | undefined,
  { token, people }: Pick<Door, 'token' | 'people'>,
): Caller | undefined {
  const given = bearerOf(header);
  if (given === undefined) return undefined;
  if (sameToken(given, token)) return { name: 'mesh', role: 'admin' };
  return people?.who(given);
}

function refusal(without: boolean): ReturnType<typeof toStatus> {
  return toStatus(
    new SpindleError(
      'UNAUTHENTICATED',
      `expected the mesh's token, got ${without ? 'none' : 'another one'}; set SPINDLE_TOKEN, or ` +
        "name the mesh's folder with --artifacts.",
    ),
  );
}

function denial(caller: Caller, path: string, least: Role): ReturnType<typeof toStatus> {
  const name = path.split('/').at(-1) ?? path;
  return toStatus(
    new SpindleError(
      'PERMISSION_DENIED',
      `${name}: expected the token of an ${least}, got that of ${caller.name}, who is ` +
        `${caller.role}.`,
    ),
  );
}
