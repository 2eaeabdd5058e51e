// Entry point of the page: loads the model's metadata, builds an input for it, shows the answers.

import { formatCurl, renderAnswer, renderError } from "./answer.js";
import { describeFacts, describeModel } from "./card.js";
import { EndpointError, forgetToken, hasToken, send, setToken } from "./client.js";
import { byId } from "./dom.js";
import { createPictureInput } from "./picture.js";
import { createRowInput, markInvalid } from "./row.js";
import { createTextInput, stream } from "./text.js";

const RETRY_MS = 2000; // between attempts while no model is ready

let model; // metadata that the page shows
let lastRequest; // sent again once a token is given
let running = new AbortController(); // of the request under way

async function start() {
  try {
    // Health needs no token and names the model, whose metadata may need one.
    const health = await send("healthz");
    model = (await send(`v2/models/${encodeURIComponent(health.value.model)}`)).value;
  } catch (error) {
    showFailure(error, byId("boot-error"));
    if (error.status === 503 || error.status === 0) setTimeout(start, RETRY_MS);
    return;
  }
  byId("boot-error").replaceChildren();
  byId("token-form").hidden = true;
  byId("forget").hidden = !hasToken();
  byId("openapi").hidden = hasToken(); // a link carries no token
  byId("main").hidden = false;
  showModel();
  if (isLanguage()) {
    byId("input").replaceChildren(createTextInput(model, predict));
    byId("invitation").textContent = model.parameters.chat ? "Write a message and press Send. The answer appears here." : "Write the beginning of a text and press Continue. The rest appears here.";
    return;
  }
  // A model takes one image, or a row of columns, some of which may be images.
  const [first] = model.inputs;
  const isImage = model.inputs.length === 1 && first.parameters?.kind === "image";
  byId("input").replaceChildren(isImage ? createPictureInput(first, predict) : createRowInput(model.inputs, predict));
  byId("invitation").textContent = isImage
    ? `${first.parameters.ink ? "Draw something, or choose" : "Choose"} an image. The answer appears here.`
    : "Fill in a row and press Predict. The answer appears here.";
}

const isLanguage = () => model.parameters.task === "language_modelling";

function showModel() {
  document.title = model.name;
  byId("name").textContent = model.name;
  byId("badge").textContent = `version ${model.versions[0]}`;
  byId("badge").hidden = false;
  byId("summary").textContent = describeModel(model);
  byId("facts").replaceChildren(...describeFacts(model));
}

// Sends { body, type, file } and shows the answer; null clears it. Aborts the request under way,
// so that a slow answer to an old drawing never replaces the answer to a new one.
async function predict(request) {
  lastRequest = request;
  running.abort();
  running = new AbortController();
  byId("command").hidden = !request;
  if (!request) {
    byId("error").replaceChildren();
    byId("answer").replaceChildren();
    return;
  }
  byId("command").querySelector("code").textContent = formatCurl(request, isLanguage() ? request.path : "predict");
  byId("answer").classList.add("stale"); // dimmed until the new answer is there
  const sent = { ...request, signal: running.signal };
  try {
    const version = isLanguage() ? await complete(sent) : await predictRow(sent);
    if (version !== model.versions[0]) await reloadModel();
  } catch (error) {
    if (error.name !== "AbortError") showFailure(error, byId("error"));
  }
}

// Each shows an answer and returns the version that gave it.
async function predictRow(request) {
  const answer = await send("predict", request);
  byId("error").replaceChildren();
  byId("answer").replaceChildren(...renderAnswer(answer, model.parameters.target));
  byId("answer").classList.remove("stale");
  return answer.value.version;
}

async function complete(request) {
  byId("error").replaceChildren();
  return stream(request, byId("answer"));
}

// Another version has answered: one was promoted or rolled back, or a canary runs.
async function reloadModel() {
  try {
    model = (await send(`v2/models/${encodeURIComponent(model.name)}`)).value;
    showModel();
  } catch (error) {
    if (!(error instanceof EndpointError)) throw error; // the next answer tries again
  }
}

function showFailure(error, place) {
  if (!(error instanceof EndpointError)) throw error; // a fault of the page belongs in the console
  if (place === byId("error")) byId("answer").replaceChildren();
  if (error.status === 401) {
    byId("token-form").hidden = false;
    byId("token").focus();
    if (!model) byId("summary").textContent = "This model is not public.";
    if (!hasToken()) {
      place.replaceChildren(); // sent without a token: the form for it says enough
      return;
    }
  }
  place.replaceChildren(renderError(error));
  if (error.status === 422) markInvalid(byId("input"), error.message);
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("token").value.trim());
  byId("token").value = "";
  if (!model) {
    start();
    return;
  }
  byId("token-form").hidden = true;
  byId("forget").hidden = false;
  if (lastRequest) predict(lastRequest);
});

byId("forget").addEventListener("click", () => {
  forgetToken();
  location.reload();
});

byId("copy").hidden = !navigator.clipboard; // browsers offer it to secure pages only
byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("command").querySelector("code").textContent);
  byId("copy").textContent = "Copied";
});

// A file dropped outside the drop zone must not replace the page.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());

start();
