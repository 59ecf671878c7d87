// Draws frames on the canvas and measures what is shown.

const SCALE = 4;
const FPS_WINDOW_MS = 2000;

/** The canvas: frames are enlarged smoothly to a few times their size, the browser does the rest. */
export class Screen {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.newest = -1;
    this.framesShown = 0;
  }

  setSize(width, height) {
    this.canvas.width = width * Math.max(1, Math.min(SCALE, Math.floor(1280 / width)));
    this.canvas.height = (this.canvas.width * height) / width;
    this.canvas.parentElement.style.setProperty("--aspect", width / height);
    this.newest = -1;
  }

  async show(frame) {
    const bitmap = await createImageBitmap(frame.jpeg);
    // Decoding may finish out of order; time only goes forward.
    if (frame.sequence > this.newest) {
      this.newest = frame.sequence;
      this.context.imageSmoothingQuality = "high";
      this.context.drawImage(bitmap, 0, 0, this.canvas.width, this.canvas.height);
      this.framesShown += 1;
    }
    bitmap.close();
  }
}

/** Frames a second shown, and the time from a key to the first frame that it changed. */
export class Meter {
  constructor() {
    this.reset();
  }

  reset() {
    this.times = [];
    this.pressedAt = null;
    this.latencyMs = null;
    this.stepMs = null;
  }

  pressed(timestamp) {
    this.pressedAt ??= timestamp;
  }

  shown(frame) {
    const now = performance.now();
    this.times.push(now);
    this.stepMs = frame.stepMs;
    if (this.pressedAt !== null && frame.controlTimestamp !== null && frame.controlTimestamp >= this.pressedAt) {
      this.latencyMs = now - this.pressedAt;
      this.pressedAt = null;
    }
  }

  get fps() {
    const since = performance.now() - FPS_WINDOW_MS;
    this.times = this.times.filter((time) => time > since);
    if (this.times.length < 2) return 0;
    const span = performance.now() - this.times[0];
    return (1000 * this.times.length) / span;
  }
}
