/** What this worker is doing, for GetWorker and the heartbeat. */
export class WorkerState {
  jobKey = '';
  jobsDone = 0;
  jobsFailed = 0;

  begin(jobKey: string): void {
    this.jobKey = jobKey;
  }

  end(ok: boolean): void {
    this.jobKey = '';
    if (ok) this.jobsDone++;
    else this.jobsFailed++;
  }
}
