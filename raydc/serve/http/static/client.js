// Client of the endpoint that served this page.

// In sessionStorage: kept for this tab, and gone when it closes.
const TOKEN = "raydc-token";
const KEY = "raydc-key";

// An error answer, or no answer (status 0).
export class EndpointError extends Error {
  constructor(status, message, requestId, retryAfterS) {
    super(message);
    Object.assign(this, { status, requestId, retryAfterS });
  }
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;
export const setToken = (token) => sessionStorage.setItem(TOKEN, token);
export const forgetToken = () => sessionStorage.removeItem(TOKEN);
export const address = (path) => new URL(path, document.baseURI).href;

// Requests with one key stay with one version while a canary runs.
function key() {
  if (sessionStorage.getItem(KEY) === null) {
    const bytes = crypto.getRandomValues(new Uint8Array(8));
    sessionStorage.setItem(KEY, Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""));
  }
  return sessionStorage.getItem(KEY);
}

// Sends a GET, or a POST if there is a body, to a path relative to the page.
// Returns { value, requestId, ms }. Throws EndpointError, or AbortError once `signal` is aborted.
export async function send(path, request = {}) {
  const started = performance.now();
  const { response, requestId } = await open(path, request);
  const text = await textOf(response, path);
  const ms = performance.now() - started;
  const value = parse(text); // undefined if a proxy answered with something else
  if (value !== undefined) return { value, requestId: value?.request_id ?? requestId, ms };
  throw failure(response, text, requestId);
}

// Does what `send` does, and returns { response, requestId } as soon as the answer begins.
export async function open(path, { body, type, signal } = {}) {
  const headers = { accept: "application/json", "x-raydc-key": key() };
  if (hasToken()) headers.authorization = `Bearer ${sessionStorage.getItem(TOKEN)}`;
  if (type) headers["content-type"] = type;
  const method = body === undefined ? "GET" : "POST";
  const options = { method, headers, body, signal, cache: "no-store", credentials: "omit" };
  const response = await answered(fetch(address(path), options), path);
  const requestId = response.headers.get("x-request-id");
  if (response.ok) return { response, requestId };
  throw failure(response, await textOf(response, path), requestId);
}

const textOf = (response, path) => answered(response.text(), path);

// What the network does not bring is an EndpointError too.
export async function answered(promise, path) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new EndpointError(0, `${address(path)} does not answer`);
  }
}

function failure(response, text, requestId) {
  const value = parse(text);
  // An object below v1, a text elsewhere.
  const message = value?.error?.message ?? value?.error ?? (text.slice(0, 300) || "no reason given");
  const retryAfterS = Number(response.headers.get("retry-after")) || undefined;
  return new EndpointError(response.status, message, value?.request_id ?? requestId, retryAfterS);
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
