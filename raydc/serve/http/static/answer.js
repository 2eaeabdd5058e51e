// Renders answers and errors, and the request as a command for a terminal.

import { address, hasToken } from "./client.js";
import { element } from "./dom.js";

const MAX_BARS = 10; // more classes are shown on demand
// By HTTP status; 0 stands for no answer at all.
const TITLES = {
  0: "The endpoint cannot be reached",
  400: "The request is malformed",
  401: "The endpoint needs a valid token",
  403: "The token does not allow this",
  404: "Not found",
  408: "The answer took too long",
  413: "The request is too large",
  415: "The model does not accept this kind of file",
  422: "A value does not fit the model",
  429: "The endpoint is busy",
  503: "The endpoint is not ready",
};

// Elements for an answer of /predict, as `send` returns it; target: name of what is predicted.
export function renderAnswer({ value, requestId, ms }, target) {
  const [prediction] = value.predictions;
  const parts = renderPrediction(prediction, target);
  const origin = element("p", { class: "quiet origin" }, [
    element("span", { id: "version" }, `version ${value.version}`),
    element("span", { id: "latency", title: "from this browser to the endpoint and back" }, `${ms.toFixed(ms < 10 ? 1 : 0)} ms`),
  ]);
  if (requestId) origin.append(element("span", {}, ["request ", element("code", { id: "request-id" }, requestId)]));
  return [...parts, origin];
}

function renderPrediction(prediction, target) {
  if ("labels" in prediction) return renderLabels(prediction);
  return "scores" in prediction ? renderClassification(prediction) : renderRegression(prediction, target);
}

function renderLabels({ labels, scores }) {
  const said = labels.length ? labels.join(", ") : "no label";
  return [element("p", { class: "result" }, [element("strong", { id: "label" }, said)]), ...renderScores(scores, "labels")];
}

function renderClassification({ label, score, scores }) {
  return [
    element("p", { class: "result" }, [
      element("strong", { id: "label" }, label),
      element("span", { id: "score", class: "quiet" }, percent(score)),
    ]),
    ...renderScores(scores, "classes"),
  ];
}

// Bars of the highest scores, and a button for the others; what: classes or labels.
function renderScores(scores, what) {
  const ranked = Object.entries(scores).sort(([, a], [, b]) => b - a);
  const bars = ranked.map(([name, share]) => renderBar(name, share));
  const list = element("ol", { class: "bars", "aria-label": "Probabilities" }, bars.slice(0, MAX_BARS));
  const parts = [list];
  if (bars.length > MAX_BARS) {
    const more = element("button", { type: "button", class: "link" }, `Show all ${bars.length} ${what}`);
    more.addEventListener("click", () => {
      list.append(...bars.slice(MAX_BARS));
      more.remove();
    });
    parts.push(more);
  }
  return parts;
}

function renderBar(name, share) {
  const filled = element("span", { class: "filled" });
  // Set through the DOM: the page's policy refuses style attributes in markup.
  filled.style.inlineSize = `${100 * share}%`;
  return element("li", {}, [
    element("span", { class: "class", title: name }, name),
    element("span", { class: "track", "aria-hidden": "true" }, filled),
    element("span", { class: "share" }, percent(share)),
  ]);
}

function renderRegression({ value }, target) {
  if (Array.isArray(value)) return renderSteps(value, target);
  return [
    element("p", { class: "result" }, [
      element("strong", { id: "label" }, value.toLocaleString("en", { maximumSignificantDigits: 6 })),
      element("span", { class: "quiet" }, target ?? "value"),
    ]),
  ];
}

// The next values of a series, in their order.
function renderSteps(values, target) {
  const items = values.map((value) => element("li", {}, value.toLocaleString("en", { maximumSignificantDigits: 6 })));
  return [
    element("p", { class: "quiet" }, `${target ?? "value"}, the next ${values.length} steps`),
    element("ol", { id: "label", class: "steps" }, items),
  ];
}

export function renderError(error) {
  const title = TITLES[error.status] ?? "The endpoint failed";
  const lines = [element("strong", {}, title), element("p", { class: "message" }, error.message)];
  if (error.retryAfterS) lines.push(element("p", {}, `Try again in ${error.retryAfterS} s.`));
  const origin = [error.status && `HTTP ${error.status}`, error.requestId && `request ${error.requestId}`].filter(Boolean);
  if (origin.length) lines.push(element("p", { class: "quiet" }, origin.join(" · ")));
  return element("div", { class: "error" }, lines);
}

// The request as a curl command. The token is left out: commands are pasted and shared.
export function formatCurl({ body, type, file }, path) {
  // A quote inside quotes: close them, an escaped quote, open them again.
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const token = hasToken() ? ' \\\n  -H "Authorization: Bearer $TOKEN"' : "";
  const data = file === undefined ? `-d ${quoted(body)}` : `--data-binary ${quoted(`@${file}`)}`;
  return `curl ${quoted(address(path))}${token} \\\n  -H ${quoted(`Content-Type: ${type}`)} \\\n  ${data}`;
}

const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);
