// The choice of what a world begins from: a recorded moment, words alone, or a picture or video of one's own.

import { addressOf } from "./addresses.js";
import * as api from "./api.js";

const PAGE = 48;

export class Beginnings {
  /** `onPick` is told of a moment that is chosen. */
  constructor(form, onPick) {
    this.kind = form.querySelector("[data-testid=start]");
    this.file = form.querySelector("[data-testid=start-file]");
    this.list = form.querySelector("[data-testid=gallery]");
    this.more = form.querySelector("[data-testid=gallery-more]");
    this.credit = form.querySelector("[data-testid=gallery-credit]");
    this.onPick = onPick;
    this.picked = null;
    this.shown = 0;
    this.kind.addEventListener("change", () => this.show());
    this.more.addEventListener("click", () => this.loadMore());
  }

  /** Offers the gallery if the served model has one. */
  async open() {
    await this.load();
    const option = this.kind.querySelector("[value=gallery]");
    option.disabled = !this.shown;
    this.kind.value = this.shown ? "gallery" : "drawn";
    this.show();
  }

  show() {
    const kind = this.kind.value;
    this.list.parentElement.hidden = kind !== "gallery";
    this.file.parentElement.hidden = kind !== "picture";
    this.file.required = kind === "picture";
  }

  async load() {
    const page = await api.listGallery(PAGE, this.shown);
    for (const start of page.starts) this.list.append(this.tile(start));
    this.shown += page.starts.length;
    this.more.hidden = this.shown >= page.total;
    this.credit.textContent = page.credit ? `Footage: ${page.credit}` : "";
  }

  async loadMore() {
    this.more.disabled = true;
    try {
      await this.load();
    } catch (error) {
      this.credit.textContent = error.message;
    } finally {
      this.more.disabled = false;
    }
  }

  tile(start) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "moment";
    button.title = start.caption;
    button.setAttribute("aria-pressed", "false");
    const picture = document.createElement("img");
    const src = addressOf(`v1/gallery/${encodeURIComponent(start.id)}/picture`);
    Object.assign(picture, { src, alt: start.caption, loading: "lazy" });
    button.append(picture);
    button.addEventListener("click", () => this.pick(start, button));
    return button;
  }

  /** Chooses a moment, or with a second click leaves the choice to the prompt again. */
  pick(start, button) {
    this.picked = this.picked === start.id ? null : start.id;
    for (const other of this.list.children) {
      other.setAttribute("aria-pressed", String(other === button && this.picked !== null));
    }
    if (this.picked) this.onPick(start);
  }

  /** The fields of a new session. */
  async fields() {
    const start = this.kind.value;
    if (start === "gallery" && this.picked) return { start, gallery_id: this.picked };
    const file = this.file.files[0];
    if (start !== "picture" || !file) return { start };
    return { start, [file.type.startsWith("video/") ? "video" : "image"]: await base64(file) };
  }
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result.slice(reader.result.indexOf(",") + 1)));
    reader.addEventListener("error", () => reject(new Error("the file cannot be read: choose it again")));
    reader.readAsDataURL(file);
  });
}
