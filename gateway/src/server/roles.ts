/** What each call asks of who makes it: the one table of roles. */
import { reaches, type Role } from '@spindle/kit';
import { RunService } from '@spindle/proto';

/** A method that is new has to be put in here. */
export const leastRoles: Readonly<Record<keyof typeof RunService.method, Role>> = {
  getRun: 'viewer',
  listRuns: 'viewer',
  watchRun: 'viewer',
  // Reads files that the config names, with the rights of the mesh's user.
  createRun: 'operator',
  pauseRun: 'operator',
  resumeRun: 'operator',
  cancelRun: 'operator',
  deleteRun: 'admin',
};

/** Every route of the page reads, and nothing else. */
export const leastRoleOfPage: Role = 'viewer';

const byPath = new Map<string, Role>(
  RunService.methods.map(({ name, localName }) => [
    `/${RunService.typeName}/${name}`,
    leastRoles[localName as keyof typeof leastRoles],
  ]),
);

/** Of a gRPC path; reflection tells what there is, and so do the docs. */
export function leastRoleOf(path: string): Role {
  if (path.startsWith('/grpc.reflection.')) return 'viewer';
  return byPath.get(path) ?? 'admin';
}

/** Is a call one that is kept in the audit log? */
export function isAudited(method: keyof typeof leastRoles): boolean {
  return !reaches('viewer', leastRoles[method]);
}
