// How many tests passed and failed, from what the runners print.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

/**
 * vitest's JSON report. A file that cannot be loaded, or an error outside of any test, is one
 * failure.
 */
export function vitestCounts(report) {
  const failedFiles = report.testResults.filter(
    (file) =>
      file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'),
  );
  return { passed: report.numPassedTests, failed: report.numFailedTests + failedFiles.length };
}

/**
 * `ctest --verbose`: each program ends with "N passed, N failed"; one that did not get there is one
 * failure.
 */
export function ctestCounts(output) {
  const counts = { passed: 0, failed: 0 };
  const failedOf = new Map();
  for (const [, number, passed, failed] of output.matchAll(
    /^(\d+): (\d+) passed, (\d+) failed\s*$/gm,
  )) {
    counts.passed += Number(passed);
    counts.failed += Number(failed);
    failedOf.set(number, Number(failed));
  }
  for (const [, number, result] of output.matchAll(
    /^\s*\d+\/\d+ Test\s+#(\d+): \S+ [.*]*\s*(.*?)\s+[\d.]+ sec\s*$/gm,
  )) {
    if (!failedOf.has(number)) {
      if (result === 'Passed') counts.passed++;
      else counts.failed++;
    } else if (result !== 'Passed' && failedOf.get(number) === 0) {
      counts.failed++;
    }
  }
  return counts;
}

/**
 * How many files the CUDA backend has, and whether the build made it (its sources were compiled
 * with warnings as errors then).
 */
export function cudaCounts(sourceDir, buildDir) {
  const folders = ['engine/kernels/cuda', 'engine/kernels/cuda/library']
    .map((folder) => join(sourceDir, folder))
    .filter(existsSync);
  const sources = folders
    .flatMap((folder) => readdirSync(folder))
    .filter((name) => /\.(cu|cc)$/.test(name)).length;
  return { sources, built: existsSync(join(buildDir, 'spindle_cuda.so')) };
}

/** The closing line over all runners, and whether the whole may be called good. */
export function summarise(runners) {
  const passed = runners.reduce((sum, runner) => sum + runner.passed, 0);
  const failed = runners.reduce((sum, runner) => sum + runner.failed, 0);
  const problems = runners.flatMap((runner) => {
    if (runner.passed + runner.failed === 0) return [`${runner.name} ran no test`];
    return runner.failed === 0 && runner.exitCode !== 0
      ? [`${runner.name} ended with exit code ${runner.exitCode}`]
      : [];
  });
  return {
    line: `${passed} passed, ${failed + problems.length} failed`,
    problems,
    ok: failed === 0 && problems.length === 0,
  };
}
