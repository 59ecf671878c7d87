// The page: one world at a time, its socket, its keys and its words.

import { BASE } from "./addresses.js";
import * as api from "./api.js";
import { Clips } from "./clips.js";
import { Controls } from "./controls.js";
import { Beginnings } from "./gallery.js";
import { GamepadControls } from "./gamepad.js";
import { Keyboard } from "./keyboard.js";
import { Look } from "./look.js";
import { MouseLook } from "./mouse.js";
import { Playout } from "./playout.js";
import { Meter, Screen } from "./screen.js";
import { keep, read } from "./stored.js";
import { Stream } from "./stream.js";
import { ThinLink } from "./thin.js";
import { Stick, TouchLook } from "./touch.js";

const $ = (id) => document.getElementById(id);
// One host may serve several of these pages, each below a path of its own.
const STORED_SESSION = `gamegen-session ${BASE.pathname}`;
const READOUT_INTERVAL_MS = 250;

const NO_SOCKETS =
  "worlds are played on a WebSocket, and none could be opened: a proxy before the server has to pass them on";

const STATES = {
  idle: "idle",
  starting: "beginning a world",
  queued: "waiting for a place",
  playing: "playing",
  reconnecting: "reconnecting",
  recovering: "moving the world",
  "taken-over": "played elsewhere",
  ended: "ended",
  error: "error",
};

const screen = new Screen($("screen"));
const meter = new Meter();
const playout = new Playout(showFrame);
const thin = new ThinLink($("thin-field"), $("thin"), {
  onFrame: (frame) => playout.push(frame),
  onChange: (format) => stream?.send({ type: "settings", format }),
  onFailed: () => showBanner("this browser could not show the stream for thin links: it gets pictures again"),
});
const controls = new Controls(sendKeys);
new Keyboard(controls);
const look = new Look($("look-speed"), $("look-speed-value"), (turn) => sendControl({ turn }));
const mouse = new MouseLook($("screen"), $("mouse-hint"), look);
const gamepad = new GamepadControls(controls, $("gamepad"), (camera) => sendControl({ camera }));
new TouchLook($("look-area"), look);
new Stick($("walk"), controls);
new Clips($("clips"), () => ({ prompt: $("prompt").value.trim(), perspective: $("perspective").value }));
const beginnings = new Beginnings($("world-form"), (moment) => {
  // Other words would lead the world away from the picture that was chosen.
  $("prompt").value = moment.caption;
  if (moment.perspective) $("perspective").value = moment.perspective;
});
let stream = null;
let state = "idle";
let isBeginning = false;
let readouts = null; // the timer that shows them

/** What tests and curious people may read. */
window.gamegen = {
  sessionId: null,
  reconnects: 0,
  lastAck: null,
  lastChunk: null,
  get framesShown() { return screen.framesShown; },
  get fps() { return meter.fps; },
  get bytesPerSecond() { return meter.bytesPerSecond; },
  get latencyMs() { return meter.latencyMs; },
  get stepMs() { return meter.stepMs; },
  get playoutDelayMs() { return playout.delayMs; },
  get state() { return state; },
};

function setState(next, curtain = "") {
  state = next;
  $("state").dataset.state = next;
  $("state").textContent = STATES[next];
  $("curtain").hidden = !curtain;
  $("curtain-text").textContent = curtain;
  $("curtain").classList.toggle("still", ["ended", "taken-over", "error"].includes(next));
}

function showBanner(text, action = null) {
  $("banner").hidden = !text;
  $("banner-text").textContent = text;
  $("banner-action").hidden = !action;
  if (action) {
    $("banner-action").textContent = action.label;
    $("banner-action").onclick = () => { showBanner(""); action.run(); };
  }
}

const newWorld = { label: "New world", run: () => begin() };

async function begin() {
  const world = {
    prompt: $("prompt").value.trim(),
    perspective: $("perspective").value,
    seed: Number($("seed").value),
  };
  const button = document.querySelector("[data-testid=new-world]");
  button.disabled = isBeginning = true;
  showBanner("");
  setState("starting", "Drawing the first picture …");
  try {
    const session = await api.createSession({ ...world, ...(await beginnings.fields()) });
    leave();
    play(session);
  } catch (error) {
    // A world that cannot begin is no reason to lose the one that runs.
    if (stream) setState("playing");
    else setState("error", "No world yet");
    showBanner(error.message, { label: "Try again", run: begin });
  } finally {
    button.disabled = isBeginning = false;
  }
}

function leave() {
  stream?.close();
  stream = null;
  const old = window.gamegen.sessionId;
  window.gamegen.sessionId = null;
  keep("sessionStorage", STORED_SESSION, null);
  if (old) api.deleteSession(old).catch(() => {}); // It may have ended already.
}

function play(session) {
  window.gamegen.sessionId = session.id;
  keep("sessionStorage", STORED_SESSION, JSON.stringify({ id: session.id, token: session.resume_token }));
  screen.setSize(session.width, session.height);
  meter.reset();
  playout.reset();
  thin.reset();
  clearInterval(readouts);
  readouts = setInterval(showReadouts, READOUT_INTERVAL_MS);
  window.gamegen.lastChunk = null;
  showWords(session.instruction);
  $("ack").textContent = "";
  stream = new Stream(session, session.resume_token, {
    onOpen,
    onFrame: (frame) => playout.push(frame),
    onInit: (init) => thin.begin(init),
    onFragment: (frames, fragment) => thin.push(frames, fragment),
    onMessage,
    onDropped,
    onEnded,
  });
}

function onOpen() {
  if (thin.format !== "jpeg") stream.send({ type: "settings", format: thin.format });
  // The server let go of every key when the last socket closed.
  if (controls.held.length) sendKeys(controls.held, true);
  gamepad.onReleased();
}

async function showFrame(frame) {
  meter.shown(frame);
  window.gamegen.lastChunk = frame.chunk;
  try {
    await screen.show(frame);
  } catch {
    showBanner("a picture came that this browser cannot show: reload the page");
    return;
  }
  // Frames of the old world still come while another is begun, and some are decoded when their socket has dropped.
  if (!isBeginning && stream?.isWelcome && ["starting", "reconnecting", "queued"].includes(state)) setState("playing");
}

function onMessage(message) {
  if (message.type === "ack") {
    window.gamegen.lastAck = message;
    showWords(message.instruction);
    $("ack").textContent = message.instruction ? `heard: ${message.instruction}` : "back to how it was";
  } else if (message.type === "error") {
    showBanner(message.message, message.fatal ? newWorld : null);
  } else if (message.type === "queued") {
    setState("queued", `All places are taken: you are number ${message.position} in the queue`);
  } else if (message.type === "status") {
    if (message.state === "recovering") setState("recovering", "The world moves to another machine …");
    else setState("playing");
  }
}

function onDropped({ attempts, hasOpened }) {
  window.gamegen.reconnects += 1;
  meter.reset();
  playout.reset();
  setState("reconnecting", attempts > 3 ? "The server does not answer, still trying …" : "Connection lost, coming back …");
  if (attempts === 4 && !hasOpened) showBanner(NO_SOCKETS);
}

function onEnded({ reason, takenOver }) {
  mouse.leave(); // What to do next is a button.
  playout.reset();
  thin.reset();
  meter.reset();
  clearInterval(readouts);
  showReadouts();
  window.gamegen.sessionId = null;
  keep("sessionStorage", STORED_SESSION, null);
  setState(takenOver ? "taken-over" : "ended", takenOver ? "This world is played in another window" : "This world has ended");
  showBanner(reason || "the session ended", newWorld);
}

function sendKeys(keys, isDown) {
  const timestamp = performance.now();
  meter.pressed(timestamp);
  stream?.send({ type: "control", timestamp, keyboard: { keys, state: isDown } });
}

function sendControl(part) {
  stream?.send({ type: "control", timestamp: performance.now(), ...part });
}

function say(text) {
  if (!stream || state !== "playing") {
    showBanner("no world is running: begin one first", newWorld);
    return;
  }
  $("ack").textContent = "…";
  stream.send({ type: "control", timestamp: performance.now(), instruction: { text, parameters: {} } });
}

function showWords(text) {
  $("words").hidden = !text;
  $("words").textContent = text ? `“${text}”` : "";
}

function showReadouts() {
  const fps = meter.fps;
  $("fps").textContent = fps ? fps.toFixed(1) : "–";
  $("rate").textContent = fps ? `${Math.round(meter.bytesPerSecond / 1000)} kB/s` : "";
  $("latency").textContent = meter.latencyMs === null ? "–" : `${Math.round(meter.latencyMs)} ms`;
  $("step").textContent = meter.stepMs === null ? "–" : `${Math.round(meter.stepMs)} ms`;
}

async function showAbout() {
  const { model } = await api.getStatus();
  const millions = (model.parameters / 1e6).toFixed(1);
  const where = model.device === "cpu" ? "the CPU" : model.device;
  $("about").textContent = `${millions} million weights draw ${model.width}×${model.height} pictures on ${where}.`;
}

async function resumeOrBegin() {
  const stored = read("sessionStorage", STORED_SESSION);
  if (stored) {
    setState("starting", "Coming back …");
    const { id, token } = JSON.parse(stored);
    try {
      play({ ...(await api.getSession(id)), resume_token: token });
      return;
    } catch (error) {
      if (error.status !== 404) {
        setState("error", "No way back to your world yet");
        showBanner(error.message, { label: "Try again", run: resumeOrBegin });
        return;
      }
      keep("sessionStorage", STORED_SESSION, null); // It ended while the page was away.
    }
  }
  await begin();
}

$("world-form").addEventListener("submit", (event) => {
  event.preventDefault();
  $("screen").focus();
  begin();
});
$("dice").addEventListener("click", () => { $("seed").value = Math.floor(Math.random() * 1e6); });
$("instruct-form").addEventListener("submit", (event) => {
  event.preventDefault();
  say($("instruction").value.trim());
  $("instruction").value = "";
  $("screen").focus();
});
for (const chip of document.querySelectorAll("[data-words]")) {
  chip.addEventListener("click", () => { say(chip.dataset.words); $("screen").focus(); });
}
$("clips").addEventListener("submit", () => $("screen").focus());
$("banner-close").addEventListener("click", () => showBanner(""));

showAbout().catch(() => {}); // A nicety: a server that does not answer shows in the world's own state.
const galleryShown = beginnings.open().catch(() => {}); // Without it worlds are drawn from words.
Promise.all([thin.ready, galleryShown]).then(resumeOrBegin);
