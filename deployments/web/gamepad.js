// A gamepad of the standard layout: the left stick walks, the right one looks, buttons jump, attack and sneak.

import { walkKeys } from "./stick.js";

const KEYS_OF_BUTTONS = { 0: "space", 1: "q", 2: "e", 7: "e" }; // A, B, X and the right trigger
const PRESSED_FROM = 0.5;
const WALK_DEAD_ZONE = 0.35;
const LOOK_DEAD_ZONE = 0.15;
// At the rim, in degrees a frame: twice what the arrow keys do.
const FASTEST_YAW_DEG = 4.8;
const FASTEST_PITCH_DEG = 2.4;
// Coarse enough that a thumb that rests sends nothing.
const STEPS_PER_DEG = 5;

const CONNECTED = "Gamepad connected: left stick walks, right stick looks, A jumps, X or RT attacks, B sneaks.";

/** Calls onCamera({ yaw_deg, pitch_deg }), degrees a frame, whenever the right stick changes it. */
export class GamepadControls {
  constructor(controls, status, onCamera) {
    this.controls = controls;
    this.status = status;
    this.invitation = status.textContent;
    status.hidden = !navigator.getGamepads; // Browsers offer them to secure pages only.
    this.onCamera = onCamera;
    this.isPolling = false;
    this.onReleased();
    window.addEventListener("gamepadconnected", () => this.begin());
    // A hidden page is not polled: what the sticks said last would stay in force.
    document.addEventListener("visibilitychange", () => document.hidden && this.rest());
  }

  begin() {
    if (this.isPolling || !connectedGamepad()) return;
    this.isPolling = true;
    this.status.textContent = CONNECTED;
    this.poll();
  }

  poll() {
    const gamepad = connectedGamepad();
    // Another window may be played with the same gamepad.
    if (gamepad && document.hasFocus()) this.read(gamepad);
    else this.rest();
    if (gamepad) {
      requestAnimationFrame(() => this.poll());
      return;
    }
    this.isPolling = false;
    this.status.textContent = this.invitation;
  }

  read({ axes, buttons }) {
    const [x = 0, y = 0, lookX = 0, lookY = 0] = axes;
    const keys = new Set(walkKeys(x, y, WALK_DEAD_ZONE));
    for (const [index, key] of Object.entries(KEYS_OF_BUTTONS)) {
      if (buttons[index]?.pressed || buttons[index]?.value > PRESSED_FROM) keys.add(key);
    }
    this.controls.holdOnly([...keys], "gamepad");
    this.turn(lookX, lookY);
  }

  rest() {
    this.controls.holdOnly([], "gamepad");
    this.turn(0, 0);
  }

  turn(x, y) {
    const length = Math.hypot(x, y);
    const pushed = Math.min(1, Math.max(0, (length - LOOK_DEAD_ZONE) / (1 - LOOK_DEAD_ZONE)));
    // Squared, so that small pushes aim finely.
    const scale = pushed ? pushed ** 2 / length : 0;
    const camera = { yaw_deg: stepped(x * scale * FASTEST_YAW_DEG), pitch_deg: stepped(y * scale * FASTEST_PITCH_DEG) };
    if (camera.yaw_deg === this.camera.yaw_deg && camera.pitch_deg === this.camera.pitch_deg) return;
    this.camera = camera;
    this.onCamera(camera);
  }

  /** The server let go of the camera: what the stick says has to be sent again. */
  onReleased() {
    this.camera = { yaw_deg: 0, pitch_deg: 0 };
  }
}

const stepped = (degrees) => Math.round(degrees * STEPS_PER_DEG) / STEPS_PER_DEG;

/** One of the standard layout if there is any: other devices number their sticks and buttons as they like. */
function connectedGamepad() {
  const gamepads = [...(navigator.getGamepads?.() ?? [])].filter((gamepad) => gamepad?.connected);
  return gamepads.find((gamepad) => gamepad.mapping === "standard") ?? gamepads[0];
}
