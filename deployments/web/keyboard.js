// The keyboard: keys by their place, so that W A S D lie under the same fingers in every layout.

const KEYS_OF_CODES = {
  KeyW: "w", KeyA: "a", KeyS: "s", KeyD: "d", KeyE: "e", KeyQ: "q", Space: "space",
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
};
const KEYS_OF_NAMES = {
  w: "w", a: "a", s: "s", d: "d", e: "e", q: "q", " ": "space",
  arrowleft: "left", arrowright: "right", arrowup: "up", arrowdown: "down",
};
const HOLDER = "keyboard";
const TYPING = "input, textarea, select, [contenteditable]";
// Longer than keyboards wait before they repeat a key.
const UNHEARD_MS = 1000;

/** Holds keys of `controls` while they are down on the keyboard. */
export class Keyboard {
  constructor(controls) {
    this.controls = controls;
    this.timers = new Map(); // key -> the timer that releases it
    window.addEventListener("keydown", (event) => this.down(event));
    window.addEventListener("keyup", (event) => this.up(event));
    document.addEventListener("focusin", (event) => event.target.matches(TYPING) && controls.releaseAll());
  }

  down(event) {
    // Shortcuts are the browser's, and while their keys are down it may keep to itself what goes up (macOS does).
    if (event.ctrlKey || event.metaKey || event.altKey) {
      this.controls.holdOnly([], HOLDER);
      return;
    }
    const key = keyOf(event);
    if (!key || event.isComposing || event.target.matches?.(TYPING)) return;
    // Space and Enter press a focused button; arrows scroll: while playing they are game keys.
    event.preventDefault();
    // Repeats too: a key that was released because nothing was heard of it is down still.
    this.controls.press(key, HOLDER);
    clearTimeout(this.timers.get(key));
    if (isPlaced(event)) return;
    // Keyboards on a screen and of remote programs may never say that a key went up.
    this.timers.set(key, setTimeout(() => this.controls.release(key, HOLDER), UNHEARD_MS));
  }

  up(event) {
    const key = keyOf(event);
    if (!key) return;
    clearTimeout(this.timers.get(key));
    this.controls.release(key, HOLDER);
  }
}

/** The game's key of an event: by its place, or by its letter where the keyboard names no place. */
function keyOf(event) {
  return isPlaced(event) ? KEYS_OF_CODES[event.code] : KEYS_OF_NAMES[event.key?.toLowerCase()];
}

const isPlaced = ({ code }) => Boolean(code) && code !== "Unidentified";
