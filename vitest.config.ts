import { defineConfig } from 'vitest/config';

/*
 * How workspaces find each other: every library's package.json offers its TypeScript entry under
 * the export condition "@spindle/source" and its compiled one otherwise. vitest (here) and `tsx
 * --conditions=@spindle/source` run from sources, so a test never sees a stale build; production
 * and child processes started from dist/ never set the condition.
 */
const conditions = ['@spindle/source', 'node', 'development|production'];
const globalSetup = ['./test/harness/temporary-folder.ts'];
const shared = {
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: ['@spindle/source', 'node'] } },
};

/**
 * Tests that cross packages: real servers, child processes, the addon. Each file in its own
 * process; those whose processes keep to one thread and often wait run two at a time.
 */
function crossPackage(
  name: string,
  folder: string,
  groupOrder: number,
  minutes: number,
  maxWorkers = 1,
) {
  return {
    ...shared,
    test: {
      name,
      include: [`test/${folder}/**/*.test.ts`],
      globalSetup,
      pool: 'forks' as const,
      maxWorkers,
      sequence: { groupOrder },
      testTimeout: minutes * 60_000,
      hookTimeout: minutes * 60_000,
    },
  };
}

export default defineConfig({
  test: {
    projects: [
      {
        ...shared,
        test: {
          name: 'unit',
          include: [
            '{proto,services/*,gateway}/src/**/*.test.ts',
            'native-cuda/ts/**/*.test.ts',
            'scripts/**/*.test.mjs',
          ],
          globalSetup,
          pool: 'forks' as const,
          testTimeout: 30_000,
          hookTimeout: 30_000,
        },
      },
      crossPackage('architecture', 'architecture', 1, 1),
      crossPackage('docs', 'docs', 1, 1),
      crossPackage('golden', 'golden', 2, 15),
      crossPackage('integration', 'integration', 3, 10, 2),
      crossPackage('e2e', 'e2e', 3, 30, 2),
      crossPackage('faults', 'faults', 3, 30, 2),
    ],
  },
});
