// Fragments of MP4: the browser's own decoder makes their pictures, each of which is shown when it is due.

const CODEC = "avc1.64001f";
const SIZES_AND_FLAGS = 0x000205;
const BOX_HEADER_BYTES = 8;

/** Whether this browser decodes what the server sends; pages that came without encryption have no decoder. */
export async function canDecode() {
  try {
    return (await VideoDecoder.isConfigSupported({ codec: CODEC })).supported;
  } catch {
    return false;
  }
}

/** Calls onFrame(frame) with a `picture` for each frame of each fragment, and onFailed(error) once if it cannot. */
export class FragmentDecoder {
  constructor(onFrame, onFailed) {
    this.onFrame = onFrame;
    this.onFailed = onFailed;
    this.headers = new Map(); // sequence -> frame
    this.decoder = null;
  }

  /** Begins with an init segment, or begins anew. */
  begin(init) {
    this.close();
    this.decoder = new VideoDecoder({ output: (picture) => this.show(picture), error: (error) => this.fail(error) });
    try {
      this.decoder.configure({ codec: CODEC, description: configuration(init), optimizeForLatency: true });
    } catch (error) {
      this.fail(error);
    }
  }

  push(frames, fragment) {
    if (!this.decoder) return;
    try {
      samples(fragment).forEach((data, i) => {
        const { sequence } = frames[i];
        this.headers.set(sequence, frames[i]);
        this.decoder.decode(new EncodedVideoChunk({ type: i ? "delta" : "key", timestamp: sequence, data }));
      });
      // A decoder may hold pictures back until it is told that no more follow; each fragment begins afresh.
      this.decoder.flush().catch(() => {}); // What is wrong is told to `error`.
    } catch (error) {
      this.fail(error);
    }
  }

  show(picture) {
    const frame = this.headers.get(picture.timestamp);
    this.headers.delete(picture.timestamp);
    if (frame) this.onFrame({ ...frame, picture });
    else picture.close();
  }

  fail(error) {
    if (!this.decoder) return;
    this.close();
    this.onFailed(error);
  }

  close() {
    const decoder = this.decoder;
    this.decoder = null;
    this.headers.clear();
    if (decoder && decoder.state !== "closed") decoder.close();
  }
}

/** What the decoder must know of the stream: the content of the box `avcC`. */
function configuration(init) {
  const name = [..."avcC"].map((letter) => letter.charCodeAt(0));
  const at = init.findIndex((_, i) => name.every((byte, j) => init[i + j] === byte));
  if (at < 0) throw new Error("the server's init segment is of no kind this page knows: reload the page");
  return init.slice(at + 4, at - 4 + viewOf(init).getUint32(at - 4));
}

/** The coded pictures of a fragment, cut as its box `trun` says. */
function samples(fragment) {
  const view = viewOf(fragment);
  const run = content(view, ["moof", "traf", "trun"]);
  if (run === null || view.getUint32(run) !== SIZES_AND_FLAGS) {
    throw new Error("the server sends fragments this page does not know: reload the page");
  }
  let at = view.getInt32(run + 8);
  return Array.from({ length: view.getUint32(run + 4) }, (_, i) => {
    const size = view.getUint32(run + 16 + 4 * i);
    at += size;
    return fragment.subarray(at - size, at);
  });
}

/** Where the content of a box in boxes begins, or null. */
function content(view, [name, ...inner], from = 0, to = view.byteLength) {
  for (let at = from; at + BOX_HEADER_BYTES <= to; at += view.getUint32(at)) {
    const found = String.fromCharCode(...[4, 5, 6, 7].map((i) => view.getUint8(at + i)));
    if (found !== name) continue;
    const begins = at + BOX_HEADER_BYTES;
    return inner.length ? content(view, inner, begins, at + view.getUint32(at)) : begins;
  }
  return null;
}

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
