// The session's socket: frames and messages in, controls out; it comes back by itself when it drops.

import { addressOf } from "./addresses.js";
import { readMessage } from "./wire.js";

const FIRST_DELAY_MS = 300;
const LONGEST_DELAY_MS = 5000;
const FRAMES_PER_ACKNOWLEDGEMENT = 6;

const PROTOCOL = 1;
const CLOSE_TAKEN_OVER = 4001;
const CLOSE_WRONG_TOKEN = 4401;
const CLOSE_UNKNOWN_SESSION = 4404;
const CLOSE_IDLE = 4408;
const CLOSE_ENDED = 4410;
const CLOSE_MIGRATE = 4503;
const FINAL = new Set([CLOSE_TAKEN_OVER, CLOSE_WRONG_TOKEN, CLOSE_UNKNOWN_SESSION, CLOSE_IDLE, CLOSE_ENDED]);

/**
 * Events: onOpen(), onFrame(frame), onInit(init), onFragment(frames, fragment), onMessage(message), onDropped({ attempts,
 * hasOpened }), onEnded({ code, reason, takenOver }).
 */
export class Stream {
  constructor(session, token, events) {
    this.url = addressOf(`v1/sessions/${session.id}/stream`);
    // Without the proxy, where that can be reached; whoever is there may be gone when the socket closes.
    this.directUrl = isReachable(session.direct_stream_url) ? session.direct_stream_url : null;
    this.token = token;
    this.events = events;
    this.attempts = 0;
    this.hasOpened = false;
    this.isWelcome = false;
    this.closed = false;
    this.connect();
  }

  connect() {
    const address = new URL(this.directUrl ?? this.url);
    this.directUrl = null;
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.hasOpened = true;
      socket.send(JSON.stringify({ type: "hello", token: this.token, protocol: PROTOCOL }));
    };
    socket.onmessage = (event) => this.receive(event.data);
    socket.onclose = (event) => this.onClosed(socket, event);
    this.socket = socket;
  }

  receive(data) {
    // Frames may still arrive while a socket closes; they belong to a world that was left.
    if (this.closed) return;
    if (typeof data !== "string") {
      this.receiveBytes(data);
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "welcome") {
      this.attempts = 0;
      this.isWelcome = true;
      this.events.onOpen(message);
    }
    this.events.onMessage(message);
  }

  receiveBytes(data) {
    let content;
    try {
      content = readMessage(data);
    } catch (error) {
      this.events.onMessage({ type: "error", message: error.message });
      return;
    }
    this.receiveFrames(content);
  }

  receiveFrames({ init, frames, fragment }) {
    if (init) {
      this.events.onInit(init);
      return;
    }
    const { sequence } = frames.at(-1);
    if (fragment || sequence % FRAMES_PER_ACKNOWLEDGEMENT === 0) this.send({ type: "seen", sequence });
    if (fragment) this.events.onFragment(frames, fragment);
    else this.events.onFrame(frames[0]);
  }

  onClosed(socket, event) {
    if (this.closed || socket !== this.socket) return;
    if (FINAL.has(event.code)) {
      this.closed = true;
      this.events.onEnded({ code: event.code, reason: event.reason, takenOver: event.code === CLOSE_TAKEN_OVER });
      return;
    }
    // Whoever is told to go elsewhere goes at once; should that fail, it waits like everybody.
    const moves = event.code === CLOSE_MIGRATE && this.attempts === 0;
    const delay = moves ? 0 : Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.attempts);
    this.attempts += 1;
    this.isWelcome = false;
    this.events.onDropped({ attempts: this.attempts, hasOpened: this.hasOpened });
    // A little chance keeps many pages from coming back in the same instant.
    this.timer = setTimeout(() => this.connect(), delay * (0.8 + 0.4 * Math.random()));
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket.close(1000, "left");
  }
}

/** Of no use are an unencrypted address to an encrypted page, and the server's loopback to another machine. */
function isReachable(url) {
  if (!url || location.protocol !== "http:") return false;
  return !isLoopback(new URL(url).hostname) || isLoopback(location.hostname);
}

const isLoopback = (host) => host === "localhost" || host === "[::1]" || host.startsWith("127.");
