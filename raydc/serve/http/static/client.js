// Requests to the endpoint that served this page: one way to ask, one kind of error.

const TOKEN = "raydc-token";
const KEY = "raydc-key";

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

// Requests of one key stay with one version while a canary runs.
function key() {
  if (sessionStorage.getItem(KEY) === null) {
    const bytes = crypto.getRandomValues(new Uint8Array(8));
    sessionStorage.setItem(KEY, Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""));
  }
  return sessionStorage.getItem(KEY);
}

// Asks for `path`, relative to the page; with a body it is a POST.
// Gives { value, requestId, ms }. Throws EndpointError (status 0: nobody answered), or AbortError.
export async function ask(path, { body, type, signal } = {}) {
  const headers = { accept: "application/json", "x-raydc-key": key() };
  if (hasToken()) headers.authorization = `Bearer ${sessionStorage.getItem(TOKEN)}`;
  if (type) headers["content-type"] = type;
  const method = body === undefined ? "GET" : "POST";
  const started = performance.now();
  let response, text;
  try {
    response = await fetch(address(path), { method, headers, body, signal, cache: "no-store", credentials: "omit" });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new EndpointError(0, `${address(path)} does not answer`);
  }
  const ms = performance.now() - started;
  const value = parse(text);
  const requestId = value?.request_id ?? response.headers.get("x-request-id");
  if (response.ok && value !== undefined) return { value, requestId, ms };
  const retryAfterS = Number(response.headers.get("retry-after")) || undefined;
  throw new EndpointError(response.status, value?.error ?? (text.slice(0, 300) || "no reason given"), requestId, retryAfterS);
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
