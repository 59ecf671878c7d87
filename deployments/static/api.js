// The REST calls the page makes; every error is a sentence.

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, options);
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
  return body;
}

export const createSession = (world) =>
  call("/v1/sessions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(world),
  });

export const getSession = (id) => call(`/v1/sessions/${id}`);
export const deleteSession = (id) => call(`/v1/sessions/${id}`, { method: "DELETE", keepalive: true });
export const getStatus = () => call("/v1/status");
