// Gamepads: the left stick walks, the right one looks, buttons jump, attack and sneak.

import { whenAway } from "./away.js";
import { RestingStick } from "./resting.js";
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
const STILL = { yaw_deg: 0, pitch_deg: 0 };

const CONNECTED = "Gamepad connected: left stick walks, right stick looks, A jumps, X or RT attacks, B sneaks.";
const CONNECTED_UNKNOWN =
  "Gamepad connected, of a layout that this browser does not know: left stick walks, the first three buttons jump, " +
  "sneak and attack. Look with the mouse or the arrow keys.";

/** Calls onCamera({ yaw_deg, pitch_deg }), degrees a frame, whenever a right stick changes it. */
export class GamepadControls {
  constructor(controls, status, onCamera) {
    this.controls = controls;
    this.status = status;
    this.invitation = status.textContent;
    status.hidden = !navigator.getGamepads; // Browsers offer them to secure pages only.
    this.onCamera = onCamera;
    this.pads = new Map(); // place in the browser's list -> the gamepad there
    this.isPolling = false;
    this.onReleased();
    window.addEventListener("gamepadconnected", () => this.begin());
    // A hidden page is not polled: what the sticks said last would stay in force.
    whenAway(() => this.rest());
  }

  begin() {
    // At once: its sticks are told from where they are now.
    this.meet(connectedGamepads());
    if (this.isPolling) return;
    this.isPolling = true;
    this.poll();
  }

  poll() {
    this.meet(connectedGamepads());
    // Another window may be played with the same gamepad.
    if (document.hasFocus()) this.read();
    else this.rest();
    this.say();
    this.isPolling = this.pads.size > 0;
    if (this.isPolling) requestAnimationFrame(() => this.poll());
  }

  /** Knows the gamepads that are there, and lets go of what those held that are not there any more. */
  meet(gamepads) {
    for (const [place, pad] of this.pads) {
      if (pad.isStill(gamepads.get(place))) continue;
      this.controls.holdOnly([], pad.holder);
      this.pads.delete(place);
    }
    for (const [place, gamepad] of gamepads) {
      if (!this.pads.has(place)) this.pads.set(place, new Pad(gamepad, `gamepad ${place}`));
      this.pads.get(place).update(gamepad);
    }
  }

  read() {
    let [x, y] = [0, 0];
    for (const pad of this.pads.values()) {
      this.controls.holdOnly(pad.keys(), pad.holder);
      const look = pad.look.place;
      // Of several the one that is pushed furthest looks.
      if (Math.hypot(...look) > Math.hypot(x, y)) [x, y] = look;
    }
    this.turn(x, y);
  }

  rest() {
    for (const pad of this.pads.values()) this.controls.holdOnly([], pad.holder);
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
    this.camera = STILL;
  }

  say() {
    const pads = [...this.pads.values()];
    const connected = pads.some((pad) => pad.isStandard) ? CONNECTED : CONNECTED_UNKNOWN;
    const text = pads.length ? connected : this.invitation;
    if (this.status.textContent !== text) this.status.textContent = text;
  }
}

/** One gamepad, and what its sticks and buttons are at rest. */
class Pad {
  constructor({ id, mapping }, holder) {
    this.id = id;
    this.mapping = mapping;
    this.holder = holder;
    this.walk = new RestingStick();
    this.look = new RestingStick();
    this.pressed = new Map(); // button -> whether it is down; those that were never seen up are missing
  }

  get isStandard() {
    return this.mapping === "standard";
  }

  isStill(gamepad) {
    return Boolean(gamepad) && gamepad.id === this.id && gamepad.mapping === this.mapping;
  }

  update({ axes, buttons }) {
    this.walk.update(axes[0], axes[1]);
    // Other layouts have triggers and tilt sensors among their further axes, and no way to tell them from a stick.
    if (this.isStandard) this.look.update(axes[2], axes[3]);
    for (const index of Object.keys(KEYS_OF_BUTTONS)) {
      const isDown = Boolean(buttons[index]?.pressed || buttons[index]?.value > PRESSED_FROM);
      // The press that made the browser tell of a gamepad is none of the game; one that never ends is none at all.
      if (!isDown || this.pressed.has(index)) this.pressed.set(index, isDown);
    }
  }

  keys() {
    const keys = new Set(walkKeys(...this.walk.place, WALK_DEAD_ZONE));
    for (const [index, isDown] of this.pressed) {
      if (isDown && (this.isStandard || index < 3)) keys.add(KEYS_OF_BUTTONS[index]);
    }
    return [...keys];
  }
}

const stepped = (degrees) => Math.round(degrees * STEPS_PER_DEG) / STEPS_PER_DEG;

/** By their places, those with buttons: browsers also list tilt sensors. None where the page's frame may not ask. */
function connectedGamepads() {
  try {
    const places = [...(navigator.getGamepads?.() ?? [])].entries();
    return new Map([...places].filter(([, gamepad]) => gamepad?.connected && gamepad.buttons.length));
  } catch {
    return new Map();
  }
}
