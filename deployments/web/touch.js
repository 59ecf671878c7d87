// Playing with two thumbs: the left one walks with a stick, the right one drags the picture around.

import { whenAway } from "./away.js";
import { capture } from "./controls.js";
import { walkKeys } from "./stick.js";

const DEG_PER_PIXEL = 0.3;
const DEAD_ZONE = 0.3;

const thumbs = matchMedia("(pointer: coarse)");

/** Follows one finger at a time: begin, move and end get its pointer events. */
function followFinger(element, { begin, move, end }) {
  let finger = null;
  const stop = () => {
    if (finger === null) return;
    finger = null;
    end();
  };
  // Before the buttons inside hear of it.
  element.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" || !thumbs.matches) return;
    // One whose end was never told holds nothing any more.
    if (finger !== null && finger !== event.pointerId && element.hasPointerCapture(finger)) return;
    event.preventDefault();
    event.stopPropagation();
    finger = event.pointerId;
    capture(element, finger);
    begin(event);
  }, { capture: true });
  element.addEventListener("pointermove", (event) => event.pointerId === finger && (event.buttons ? move(event) : stop()));
  for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) {
    window.addEventListener(kind, (event) => event.pointerId === finger && stop(), { capture: true });
  }
  element.addEventListener("contextmenu", (event) => thumbs.matches && event.preventDefault());
  whenAway(stop);
}

/** Turns the camera as far as a finger is dragged over `area`. */
export class TouchLook {
  constructor(area, look) {
    let x, y;
    const follow = (event) => ([x, y] = [event.clientX, event.clientY]);
    followFinger(area, {
      begin: follow,
      move: (event) => {
        look.move(event.clientX - x, event.clientY - y, DEG_PER_PIXEL);
        follow(event);
        area.classList.add("used"); // It need not be explained any more.
      },
      end: () => {},
    });
  }
}

/** Makes a stick of the pad with the walking keys, which stay buttons for whoever has no thumb on it. */
export class Stick {
  constructor(pad, controls) {
    this.pad = pad;
    this.controls = controls;
    const point = (event) => this.point(event);
    followFinger(pad, { begin: point, move: point, end: () => this.rest() });
  }

  point({ clientX, clientY }) {
    const { left, top, width, height } = this.pad.getBoundingClientRect();
    const [x, y] = [(2 * (clientX - left)) / width - 1, (2 * (clientY - top)) / height - 1];
    const outside = Math.max(1, Math.hypot(x, y));
    this.show(x / outside, y / outside);
    this.controls.holdOnly(walkKeys(x, y, DEAD_ZONE), "stick");
  }

  rest() {
    this.show(0, 0);
    this.controls.holdOnly([], "stick");
  }

  show(x, y) {
    this.pad.style.setProperty("--x", x);
    this.pad.style.setProperty("--y", y);
  }
}
