import { ServerInterceptingCall, type ServerInterceptor } from '@grpc/grpc-js';
import { service as healthService } from 'grpc-health-check';
import { SpindleError } from '../errors.js';
import { showsToken } from '../token.js';
import { toStatus } from './status.js';

/** Whoever watches processes knows no token; health says whether one serves, nothing else. */
const open: ReadonlySet<string> = new Set(Object.values(healthService).map(({ path }) => path));

/** Ends calls that do not show the token before anything of theirs is read. */
export function askForToken(token: string): ServerInterceptor {
  return (method, call) =>
    new ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onReceiveMetadata: (metadata, receive) => {
            const [shown] = metadata.get('authorization');
            metadata.remove('authorization');
            if (open.has(method.path) || showsToken(shown?.toString(), token)) receive(metadata);
            else call.sendStatus(refusal(shown === undefined));
          },
        }),
    });
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
