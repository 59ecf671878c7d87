// Keys from the keyboard, buttons, sticks and gamepads, as one set of held keys.

import { whenAway } from "./away.js";

const MAIN_BUTTON = 1; // Of a mouse, and what a finger on the screen counts as.

/** Calls onChange(keys, state) whenever keys go down (true) or up (false). */
export class Controls {
  constructor(onChange) {
    this.onChange = onChange;
    this.holders = new Map(); // key -> the set of what holds it: "keyboard", "gamepad 0", a pointer's id …
    this.buttons = new Map([...document.querySelectorAll("[data-key]")].map((b) => [b.dataset.key, b]));
    for (const [key, button] of this.buttons) this.listenToButton(key, button);
    this.listenToPointers();
    whenAway(() => this.releaseAll());
  }

  get held() {
    return [...this.holders.keys()];
  }

  listenToButton(key, button) {
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      this.press(key, event.pointerId);
      capture(button, event.pointerId);
    });
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    // Enter holds the focused key for as long as it is down, so that the pads work without a pointer.
    button.addEventListener("keydown", (event) => event.key === "Enter" && !event.repeat && this.press(key, "enter"));
    button.addEventListener("keyup", (event) => event.key === "Enter" && this.release(key, "enter"));
    button.addEventListener("blur", () => this.release(key, "enter"));
  }

  /** A pointer lets go wherever it is by then. */
  listenToPointers() {
    const release = (event) => this.holdOnly([], event.pointerId);
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      window.addEventListener(end, release, { capture: true });
    }
    // Of a button that went up outside the window some browsers tell only by this.
    window.addEventListener("pointermove", (event) => event.buttons & MAIN_BUTTON || release(event), { capture: true });
  }

  press(key, holder) {
    const holders = this.holders.get(key);
    if (holders) {
      holders.add(holder);
      return;
    }
    this.holders.set(key, new Set([holder]));
    this.show(key, true);
    this.onChange([key], true);
  }

  release(key, holder) {
    const holders = this.holders.get(key);
    if (!holders?.delete(holder) || holders.size) return;
    this.holders.delete(key);
    this.show(key, false);
    this.onChange([key], false);
  }

  /** For what knows all it holds at once, such as a stick: presses what is new and releases the rest. */
  holdOnly(keys, holder) {
    for (const key of this.held) if (!keys.includes(key)) this.release(key, holder);
    for (const key of keys) this.press(key, holder);
  }

  releaseAll() {
    const keys = this.held;
    if (!keys.length) return;
    this.holders.clear();
    keys.forEach((key) => this.show(key, false));
    this.onChange(keys, false);
  }

  show(key, isHeld) {
    const button = this.buttons.get(key);
    button?.classList.toggle("held", isHeld);
    button?.setAttribute("aria-pressed", String(isHeld));
  }
}

/** Has an element hear of a pointer until it is lifted; one that was lifted already cannot be had. */
export function capture(element, pointerId) {
  try {
    element.setPointerCapture(pointerId);
  } catch {
    // Its end has been told, or will be told to the window.
  }
}
