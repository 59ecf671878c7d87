// Evens out the times at which frames arrive: each is shown when it is due on the server's clock, plus a delay that
// covers what nineteen of twenty frames were late by.

const WINDOW = 96;
const COVERED = 0.95;
const LONGEST_DELAY_MS = 100;
const WORTH_WAITING_MS = 2;

export class Playout {
  constructor(show) {
    this.show = show;
    this.reset();
  }

  reset() {
    clearTimeout(this.timer);
    for (const { frame } of this.waiting ?? []) frame.picture?.close();
    this.lags = [];
    this.waiting = [];
    this.delayMs = 0;
  }

  push(frame) {
    this.waiting.push({ frame, at: this.timeOf(frame) });
    this.next();
  }

  /** When to show a frame: as much after its due time as the quickest of the last ones took, plus the delay. */
  timeOf(frame) {
    // Frames of a fragment came with its first one.
    this.lags.push(performance.now() - frame.dueMs + frame.aheadMs);
    if (this.lags.length > WINDOW) this.lags.shift();
    const sorted = [...this.lags].sort((a, b) => a - b);
    this.delayMs = Math.min(LONGEST_DELAY_MS, sorted[Math.floor(COVERED * (sorted.length - 1))] - sorted[0]);
    return frame.dueMs + sorted[0] + this.delayMs;
  }

  next() {
    clearTimeout(this.timer);
    while (this.waiting.length) {
      const wait = this.waiting[0].at - performance.now();
      if (wait > WORTH_WAITING_MS) {
        this.timer = setTimeout(() => this.next(), wait);
        return;
      }
      this.show(this.waiting.shift().frame);
    }
  }
}
