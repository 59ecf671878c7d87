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
    const picture = frame.picture ?? (await createImageBitmap(frame.jpeg));
    // Decoding may finish out of order; time only goes forward.
    if (frame.sequence > this.newest) {
      this.newest = frame.sequence;
      this.context.imageSmoothingQuality = "high";
      this.context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
      this.framesShown += 1;
    }
    picture.close();
  }
}

/** Frames a second shown, their bytes, and the time from a key to the first frame that it changed. */
export class Meter {
  constructor() {
    this.reset();
  }

  reset() {
    this.frames = []; // when each of the last ones was shown, and its bytes
    this.pressedAt = null;
    this.latencyMs = null;
    this.stepMs = null;
  }

  pressed(timestamp) {
    this.pressedAt ??= timestamp;
  }

  shown(frame) {
    const now = performance.now();
    this.frames.push({ time: now, numBytes: frame.numBytes });
    this.stepMs = frame.stepMs;
    if (this.pressedAt !== null && frame.controlTimestamp !== null && frame.controlTimestamp >= this.pressedAt) {
      this.latencyMs = now - this.pressedAt;
      this.pressedAt = null;
    }
  }

  get fps() {
    return this.perSecond(() => 1);
  }

  get bytesPerSecond() {
    return this.perSecond(({ numBytes }) => numBytes);
  }

  perSecond(amount) {
    const now = performance.now();
    this.frames = this.frames.filter(({ time }) => time > now - FPS_WINDOW_MS);
    if (this.frames.length < 2) return 0;
    const total = this.frames.reduce((sum, frame) => sum + amount(frame), 0);
    return (1000 * total) / (now - this.frames[0].time);
  }
}
