// Clips of the page's prompt: ordered, watched while they are drawn, cancelled, fetched. Play goes on meanwhile.

import { addressOf } from "./addresses.js";
import * as api from "./api.js";

const ENDED = new Set(["COMPLETED", "FAILED", "CANCELLED", "BLOCKED"]);
const WORDS = {
  PENDING: "waits", ENCODING: "reads the words", QUEUED: "waits for a generator", ASSIGNED: "begins",
  GENERATING: "draws", VAE_DECODING: "decodes", SAFETY_CHECKING: "checks", TRANSCODING: "writes",
  UPLOADING: "stores", COMPLETED: "ready", FAILED: "failed", CANCELLED: "cancelled", BLOCKED: "blocked",
};
// Each that is watched holds a connection, of which a browser opens six to a server.
const SHOWN = 4;
const RETRY_MS = 2000;
// Asking again brings nothing else.
const REFUSED = new Set([401, 403, 404]);

const element = (tag, className = "", text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
};

/** A row of the list: one clip, as it is and as it goes on. */
class Clip {
  constructor(video, onError) {
    this.onError = onError;
    this.isClosed = false;
    this.row = element("li", "clip");
    this.row.dataset.testid = "clip";
    this.picture = element("span", "clip-picture");
    this.title = element("span", "clip-title", video.prompt);
    this.title.title = video.prompt;
    this.word = element("span", "hint clip-word");
    this.bar = element("progress");
    this.bar.max = 100;
    this.bar.setAttribute("aria-label", `Progress of the clip “${video.prompt}”`);
    this.actions = element("span", "clip-actions");
    this.row.append(this.picture, this.title, this.word, this.bar, this.actions);
    this.show(video);
    if (!ENDED.has(video.state)) this.watch(video.id);
  }

  watch(id) {
    this.stream = new EventSource(addressOf(`v1/videos/${id}/stream`));
    for (const name of ["phase_change", "progress", "completed", "error"]) {
      this.stream.addEventListener(name, ({ data }) => (data ? this.show(JSON.parse(data)) : this.reconnect(id)));
    }
  }

  /** After an error without data. A browser reconnects by itself, but not to a server that answered with an error. */
  async reconnect(id) {
    if (this.isClosed || this.stream.readyState !== EventSource.CLOSED) return;
    try {
      this.show(await api.getVideo(id));
    } catch (error) {
      this.word.textContent = error.message;
      this.isClosed ||= REFUSED.has(error.status);
    }
    if (!this.isClosed) this.retry = setTimeout(() => this.watch(id), RETRY_MS);
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.retry);
    this.stream?.close();
  }

  show(video) {
    const isEnded = ENDED.has(video.state);
    this.row.dataset.state = video.state;
    this.bar.value = video.progress;
    this.bar.hidden = isEnded;
    const left = video.remaining_s === null || isEnded ? "" : `, ${Math.ceil(video.remaining_s)} s`;
    this.word.textContent = `${WORDS[video.state] ?? video.state}${left}`;
    if (video.error && video.state !== "CANCELLED") this.word.textContent += `: ${video.error.message}`;
    if (isEnded) this.close();
    this.showPicture(video);
    this.showActions(video, isEnded);
  }

  showPicture({ id, thumbnail_url: url }) {
    if (!url || this.picture.firstChild) return;
    const picture = element("img");
    picture.alt = "";
    picture.src = addressOf(`v1/videos/${id}/thumbnail`);
    this.picture.append(picture);
  }

  showActions(video, isEnded) {
    const wanted = video.content_url ? "download" : isEnded ? "" : "cancel";
    if (this.actions.dataset.kind === wanted) return;
    this.actions.dataset.kind = wanted;
    this.actions.replaceChildren();
    if (wanted === "download") {
      const link = element("a", "small", "Download");
      link.href = addressOf(`v1/videos/${video.id}/content`);
      link.download = `${video.id}.mp4`;
      link.dataset.testid = "clip-download";
      this.actions.append(link);
    } else if (wanted === "cancel") {
      const button = element("button", "small", "Cancel");
      button.type = "button";
      button.dataset.testid = "clip-cancel";
      button.addEventListener("click", () => this.cancel(video.id, button));
      this.actions.append(button);
    }
  }

  async cancel(id, button) {
    button.disabled = true;
    try {
      await api.cancelVideo(id);
    } catch (error) {
      // It ended meanwhile, which the stream says too.
      if (error.status !== 409) this.onError(error.message);
      button.disabled = false;
    }
  }
}

/** The panel. `world` gives the words and the eyes of the world that the page is about. */
export class Clips {
  constructor(panel, world) {
    this.panel = panel;
    this.world = world;
    this.form = panel.querySelector("form");
    this.list = panel.querySelector("ul");
    this.word = panel.querySelector("[role=status]");
    this.clips = [];
    panel.addEventListener("toggle", () => (panel.open ? this.refresh() : this.clear()));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.order();
    });
  }

  clear() {
    for (const clip of this.clips) clip.close();
    this.clips = [];
    this.list.replaceChildren();
  }

  async refresh() {
    this.clear();
    await this.tried(async () => {
      const { data } = await api.listVideos(SHOWN);
      this.clear();
      if (!this.panel.open) return;
      for (const video of data.reverse()) this.add(video);
    });
  }

  add(video) {
    const clip = new Clip(video, (message) => { this.word.textContent = message; });
    this.clips.unshift(clip);
    this.list.prepend(clip.row);
    for (const old of this.clips.splice(SHOWN)) {
      old.close();
      old.row.remove();
    }
  }

  async order() {
    const fields = new FormData(this.form);
    const order = {
      ...this.world(),
      num_frames: Number(fields.get("frames")),
      tier: fields.get("tier"),
    };
    if (fields.get("seed") !== "") order.seed = Number(fields.get("seed"));
    const button = this.form.querySelector("[type=submit]");
    button.disabled = true;
    await this.tried(async () => this.add(await api.createVideo(order)));
    button.disabled = false;
  }

  async tried(work) {
    this.word.textContent = "";
    try {
      await work();
    } catch (error) {
      this.word.textContent = error.message;
    }
  }
}
