// The page: asks what is served, makes the fitting input, and shows what comes back.

import { curl, showAnswer, showError } from "./answer.js";
import { facts, summary } from "./card.js";
import { EndpointError, ask, forgetToken, hasToken, setToken } from "./client.js";
import { byId } from "./dom.js";
import { pictureInput } from "./picture.js";
import { markWrong, rowInput } from "./row.js";

const NOT_READY_MS = 2000;

let model; // the metadata that is shown
let last; // the request that was sent last
let running = new AbortController();

async function boot() {
  try {
    const health = await ask("healthz");
    model = (await ask(`v2/models/${encodeURIComponent(health.value.model)}`)).value;
  } catch (error) {
    fail(error, byId("boot-error"));
    if (error.status === 503 || error.status === 0) setTimeout(boot, NOT_READY_MS);
    return;
  }
  byId("boot-error").replaceChildren();
  byId("token-form").hidden = true;
  byId("forget").hidden = !hasToken();
  byId("openapi").hidden = hasToken(); // A link carries no token.
  byId("main").hidden = false;
  showModel();
  const [first] = model.inputs;
  const isImage = first.parameters?.kind === "image";
  byId("input").replaceChildren(isImage ? pictureInput(first, predict) : rowInput(model.inputs, predict));
  byId("invitation").textContent = isImage
    ? `${first.parameters.ink ? "Draw something, or choose" : "Choose"} an image: the answer appears here.`
    : "Fill in a row and press Predict: the answer appears here.";
}

function showModel() {
  document.title = model.name;
  byId("name").textContent = model.name;
  byId("badge").textContent = `version ${model.versions[0]}`;
  byId("badge").hidden = false;
  byId("summary").textContent = summary(model);
  byId("facts").replaceChildren(...facts(model));
}

// request: { body, type, file }; null takes the answer away. A newer request takes the place of one under way.
async function predict(request) {
  last = request;
  running.abort();
  running = new AbortController();
  byId("command").hidden = !request;
  if (!request) {
    byId("error").replaceChildren();
    byId("answer").replaceChildren();
    return;
  }
  byId("command").querySelector("code").textContent = curl(request);
  byId("answer").classList.add("stale");
  try {
    const answer = await ask("predict", { ...request, signal: running.signal });
    byId("error").replaceChildren();
    byId("answer").replaceChildren(...showAnswer(answer, model.parameters.target));
    byId("answer").classList.remove("stale");
    if (answer.value.version !== model.versions[0]) await follow();
  } catch (error) {
    if (error.name !== "AbortError") fail(error, byId("error"));
  }
}

// Another version answers now: promoted, rolled back, or a canary.
async function follow() {
  try {
    model = (await ask(`v2/models/${encodeURIComponent(model.name)}`)).value;
    showModel();
  } catch (error) {
    if (!(error instanceof EndpointError)) throw error; // The next answer tells.
  }
}

function fail(error, place) {
  if (!(error instanceof EndpointError)) throw error;
  if (place === byId("error")) byId("answer").replaceChildren();
  if (error.status === 401) {
    byId("token-form").hidden = false;
    byId("token").focus();
    if (!hasToken()) {
      place.replaceChildren(); // Asked without one; the field says all.
      return;
    }
  }
  place.replaceChildren(showError(error));
  if (error.status === 422) markWrong(byId("input"), error.message);
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("token").value.trim());
  byId("token").value = "";
  if (!model) {
    boot();
    return;
  }
  byId("token-form").hidden = true;
  byId("forget").hidden = false;
  if (last) predict(last);
});

byId("forget").addEventListener("click", () => {
  forgetToken();
  location.reload();
});

byId("copy").hidden = !navigator.clipboard; // A browser gives it to secure pages only.
byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("command").querySelector("code").textContent);
  byId("copy").textContent = "Copied";
});

// A file that misses the place to drop it must not replace the page.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());

boot();
