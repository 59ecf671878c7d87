// The server's binary messages: a header before each JPEG, version 2, the same before each fragment of MP4, and the
// init segment that fragments are read with. The server's wire format describes their fields.

export const HEADER_BYTES = 40;
const FRAGMENT_HEADER_BYTES = 44;
const INIT_HEADER_BYTES = 4;
const FRAMES_PER_CHUNK = 4;
const VERSIONS = { GG: 2, GV: 2, GI: 1 };

/** Reads a binary message: `{ init }`, or `{ frames, fragment }` of which frames of a JPEG have their file. */
export function readMessage(buffer) {
  const view = new DataView(buffer);
  const magic = String.fromCharCode(view.getUint8(0), view.getUint8(1));
  if (view.getUint8(2) !== VERSIONS[magic]) {
    throw new Error("the server sends frames this page does not know: reload the page");
  }
  if (magic === "GI") return { init: new Uint8Array(buffer, INIT_HEADER_BYTES) };
  const frame = readHeader(view);
  if (magic === "GG") {
    frame.jpeg = new Blob([new Uint8Array(buffer, HEADER_BYTES)], { type: "image/jpeg" });
    return { frames: [frame] };
  }
  const intervalMs = view.getFloat32(HEADER_BYTES, true);
  const frames = Array.from({ length: FRAMES_PER_CHUNK }, (_, i) => ({
    ...frame,
    frame: i,
    sequence: frame.sequence + i,
    dueMs: frame.dueMs + i * intervalMs,
    aheadMs: i * intervalMs,
    numBytes: i ? 0 : buffer.byteLength,
  }));
  return { frames, fragment: new Uint8Array(buffer, FRAGMENT_HEADER_BYTES) };
}

/** `aheadMs`: by how much sooner a frame came than it would have by itself. */
function readHeader(view) {
  const timestamp = view.getFloat64(12, true);
  return {
    frame: view.getUint8(3),
    sequence: view.getUint32(4, true),
    chunk: view.getUint32(8, true),
    controlTimestamp: Number.isNaN(timestamp) ? null : timestamp,
    stepMs: view.getFloat32(20, true),
    decodeMs: view.getFloat32(24, true),
    waitMs: view.getFloat32(28, true),
    dueMs: view.getFloat64(32, true),
    aheadMs: 0,
    numBytes: view.byteLength,
  };
}
