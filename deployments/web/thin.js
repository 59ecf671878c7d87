// The switch for thin links: the world as H.264, where the browser decodes it.

import { canDecode, FragmentDecoder } from "./fragments.js";
import { keep, read } from "./stored.js";

const STORED_CHOICE = "gamegen-thin-link";

/** Calls onFrame(frame) for each frame of fragments, onChange(format) when another is wanted, onFailed() if none come. */
export class ThinLink {
  constructor(field, box, { onFrame, onChange, onFailed }) {
    this.field = field;
    this.box = box;
    this.onFailed = onFailed;
    this.decoder = new FragmentDecoder(onFrame, () => this.giveUp());
    this.onChange = onChange;
    box.addEventListener("change", () => {
      keep("localStorage", STORED_CHOICE, box.checked ? "on" : "off");
      onChange(this.format);
    });
    this.ready = this.offer();
  }

  get format() {
    return this.box.checked ? "fmp4" : "jpeg";
  }

  async offer() {
    if (!(await canDecode())) return;
    this.field.hidden = false;
    this.box.checked = read("localStorage", STORED_CHOICE) === "on";
  }

  begin(init) {
    this.decoder.begin(init);
  }

  push(frames, fragment) {
    this.decoder.push(frames, fragment);
  }

  /** Another world begins: what was on its way belongs to the old one. */
  reset() {
    this.decoder.close();
  }

  /** What was promised does not work here: pictures come as before, and it is not offered again. */
  giveUp() {
    if (this.field.hidden) return; // Fragments that were on their way fail too.
    keep("localStorage", STORED_CHOICE, null);
    this.field.hidden = true;
    this.box.checked = false;
    this.onChange(this.format);
    this.onFailed();
  }
}
