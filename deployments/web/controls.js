// Keys from the keyboard, buttons, sticks and gamepads, as one set of held keys.

const CODES = {
  KeyW: "w", KeyA: "a", KeyS: "s", KeyD: "d", KeyE: "e", KeyQ: "q", Space: "space",
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
};

const TYPING = "input, textarea, select, [contenteditable]";

/** Calls onChange(keys, state) whenever keys go down (true) or up (false). */
export class Controls {
  constructor(onChange) {
    this.onChange = onChange;
    this.holders = new Map(); // key -> the set of what holds it: "keyboard", "gamepad", a pointer's id …
    this.buttons = new Map([...document.querySelectorAll("[data-key]")].map((b) => [b.dataset.key, b]));
    this.listenToKeyboard();
    for (const [key, button] of this.buttons) this.listenToButton(key, button);
  }

  get held() {
    return [...this.holders.keys()];
  }

  listenToKeyboard() {
    window.addEventListener("keydown", (event) => {
      const key = CODES[event.code];
      const typing = event.target.matches?.(TYPING);
      if (!key || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      // Space and Enter press a focused button; arrows scroll: while playing they are game keys.
      event.preventDefault();
      if (!event.repeat) this.press(key, "keyboard");
    });
    window.addEventListener("keyup", (event) => {
      const key = CODES[event.code];
      if (key) this.release(key, "keyboard");
    });
    // A key-up that happens in another window never arrives here.
    window.addEventListener("blur", () => this.releaseAll());
    document.addEventListener("visibilitychange", () => document.hidden && this.releaseAll());
    document.addEventListener("focusin", (event) => event.target.matches(TYPING) && this.releaseAll());
  }

  listenToButton(key, button) {
    button.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      this.press(key, event.pointerId);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(end, (event) => this.release(key, event.pointerId));
    }
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    // Enter holds the focused key for as long as it is down, so that the pads work without a pointer.
    button.addEventListener("keydown", (event) => {
      if (event.code === "Enter" && !event.repeat) this.press(key, "enter");
    });
    button.addEventListener("keyup", (event) => event.code === "Enter" && this.release(key, "enter"));
    button.addEventListener("blur", () => this.release(key, "enter"));
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
