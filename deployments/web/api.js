// The REST calls the page makes; every error is a sentence.

import { addressOf } from "./addresses.js";

async function call(path, options) {
  let response;
  try {
    response = await fetch(addressOf(path), options);
  } catch {
    throw new Error("the server does not answer: is it still running?");
  }
  if (response.status === 204) return null;
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    const error = new Error(body?.error?.message ?? `the server answered ${response.status}`);
    error.status = response.status;
    throw error;
  }
  if (body === null) throw new Error("something before the server answered in its place: reload the page, to sign in anew");
  return body;
}

const post = (path, body) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const createSession = (world) => post("v1/sessions", world);

export const getSession = (id) => call(`v1/sessions/${id}`);
export const deleteSession = (id) => call(`v1/sessions/${id}`, { method: "DELETE", keepalive: true });
export const listGallery = (limit, offset) => call(`v1/gallery?limit=${limit}&offset=${offset}`);
export const getStatus = () => call("v1/status");
export const createVideo = (order) => post("v1/videos", order);
export const listVideos = (limit) => call(`v1/videos?limit=${limit}`);
export const getVideo = (id) => call(`v1/videos/${id}`);
export const cancelVideo = (id) => call(`v1/videos/${id}`, { method: "DELETE" });
