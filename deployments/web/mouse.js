// Looking with the mouse: a click on the picture takes the pointer, Escape gives it back.

const DEG_PER_PIXEL = 0.12;

const UNLOCKED = "Click to look around with the mouse";
const LOCKED = "Esc gives the mouse back";
// Browsers refuse for a second after Escape, so that no page can keep the mouse against its owner's will.
const REFUSED = "The browser keeps the mouse for now: click again";

export class MouseLook {
  constructor(canvas, hint, look) {
    this.canvas = canvas;
    this.hint = hint;
    this.say(UNLOCKED);
    canvas.addEventListener("click", (event) => event.pointerType !== "touch" && this.enter());
    document.addEventListener("pointerlockchange", () => this.say(this.isLocked ? LOCKED : UNLOCKED));
    // Browsers that answer a request for the pointer with no promise refuse by this.
    document.addEventListener("pointerlockerror", () => this.say(REFUSED));
    // Browsers do this themselves; a web view around the page may not.
    window.addEventListener("keydown", (event) => event.key === "Escape" && this.leave());
    document.addEventListener("mousemove", (event) => {
      if (this.isLocked) look.move(event.movementX, event.movementY, DEG_PER_PIXEL);
    });
  }

  get isLocked() {
    return document.pointerLockElement === this.canvas;
  }

  async enter() {
    if (this.isLocked) return;
    try {
      await this.canvas.requestPointerLock();
    } catch {
      this.say(REFUSED);
    }
  }

  leave() {
    if (this.isLocked) document.exitPointerLock();
  }

  say(text) {
    this.hint.textContent = text;
    this.hint.classList.toggle("locked", this.isLocked);
  }
}
