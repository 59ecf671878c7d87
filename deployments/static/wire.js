// The header before each JPEG; its fields are described in the server's wire format, version 2.

export const HEADER_BYTES = 40;
const VERSION = 2;

/** Reads a binary message: what the header says, and the JPEG after it. */
export function readFrame(buffer) {
  const view = new DataView(buffer);
  if (view.getUint8(0) !== 0x47 || view.getUint8(1) !== 0x47 || view.getUint8(2) !== VERSION) {
    throw new Error("the server sends frames this page does not know: reload the page");
  }
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
    jpeg: new Blob([new Uint8Array(buffer, HEADER_BYTES)], { type: "image/jpeg" }),
  };
}
