// A gamepad's stick, told from where it rests: worn ones rest beside the middle, and axes that are no stick at their end.

const FARTHEST_REST = 0.35;
// Nobody holds a thumb that still for that long.
const STILL_WITHIN = 0.01;
const STILL_MS = 2000;

/** `place` is [x, y] from -1 to 1 as if it rested at 0: [0, 0] until it has been seen near the middle. */
export class RestingStick {
  constructor() {
    this.rest = null;
    this.still = null; // where the stick is since `stillSince`
    this.place = [0, 0];
  }

  update(x, y, now = performance.now()) {
    const at = [x, y].map((value) => (Number.isFinite(value) ? value : 0));
    if (!this.still || at.some((value, i) => Math.abs(value - this.still[i]) > STILL_WITHIN)) {
      [this.still, this.stillSince] = [at, now];
    }
    if (Math.hypot(...at) <= FARTHEST_REST && (!this.rest || now - this.stillSince >= STILL_MS)) this.rest = at;
    this.place = this.rest ? at.map((value, i) => shareOfWay(this.rest[i], value)) : [0, 0];
  }
}

/** A value's share of the way from rest to the end on its side. */
function shareOfWay(rest, value) {
  const share = (value - rest) / (value > rest ? 1 - rest : 1 + rest);
  return Math.max(-1, Math.min(1, share));
}
