// How far a mouse or a finger turns the camera: movements add up and are sent a few times a second.

import { keep, read } from "./stored.js";

const STORED_SPEED = "gamegen-look-speed";
const INTERVAL_MS = 25;
const STEPS_PER_DEG = 100;
// The server keeps no more of a turn, and refuses what no hand does.
const LARGEST_TURN_DEG = 144;

/** Calls onTurn({ yaw_deg, pitch_deg }) with what was turned since the last call. */
export class Look {
  constructor(slider, output, onTurn) {
    this.slider = slider;
    this.output = output;
    this.onTurn = onTurn;
    this.yawDeg = this.pitchDeg = 0;
    this.sentAt = -Infinity;
    this.timer = null;
    const speed = read("localStorage", STORED_SPEED);
    if (speed) slider.value = speed; // The slider keeps it within its ends.
    this.showSpeed();
    slider.addEventListener("input", () => {
      this.showSpeed();
      keep("localStorage", STORED_SPEED, slider.value);
    });
  }

  get speed() {
    return Number(this.slider.value);
  }

  showSpeed() {
    this.output.textContent = `${this.speed.toFixed(2)}×`;
  }

  /** Right and down, in pixels of the page and degrees a pixel. */
  move(right, down, degPerPixel) {
    this.yawDeg = limited(this.yawDeg + right * degPerPixel * this.speed);
    this.pitchDeg = limited(this.pitchDeg + down * degPerPixel * this.speed);
    // The first movement goes out at once, those that follow wait for each other.
    this.timer ??= setTimeout(() => this.send(), Math.max(0, this.sentAt + INTERVAL_MS - performance.now()));
  }

  send() {
    this.timer = null;
    const turn = { yaw_deg: rounded(this.yawDeg), pitch_deg: rounded(this.pitchDeg) };
    if (!turn.yaw_deg && !turn.pitch_deg) return;
    // What rounding left out counts for the next: slow movements must not get lost.
    this.yawDeg -= turn.yaw_deg;
    this.pitchDeg -= turn.pitch_deg;
    this.sentAt = performance.now();
    this.onTurn(turn);
  }
}

const limited = (degrees) => Math.max(-LARGEST_TURN_DEG, Math.min(LARGEST_TURN_DEG, degrees));
// To the nearest: sums like 0.5999… would leave a step behind that no later movement brings.
const rounded = (degrees) => Math.round(degrees * STEPS_PER_DEG) / STEPS_PER_DEG;
