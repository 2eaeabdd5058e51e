// What is shown of an answer, an error, and the model itself.

import { address, hasToken } from "./client.js";
import { element } from "./dom.js";

const MOST_BARS = 10;
const TITLES = {
  0: "The endpoint cannot be reached",
  400: "The request was not understood",
  401: "The endpoint wants a valid token",
  403: "This token may not do that",
  404: "Not found",
  408: "The answer took too long",
  413: "That is too large",
  415: "The model does not take that kind of file",
  422: "The model cannot take that",
  429: "The endpoint is busy",
  503: "The endpoint is not ready",
};

// answer: as `ask` gives it for /predict.
export function showAnswer({ value, requestId, ms }, target) {
  const [prediction] = value.predictions;
  const parts = "scores" in prediction ? classification(prediction) : regression(prediction, target);
  const from = element("p", { class: "quiet from" }, [
    element("span", { id: "version" }, `version ${value.version}`),
    element("span", { id: "latency", title: "from this browser to the endpoint and back" }, `${ms.toFixed(ms < 10 ? 1 : 0)} ms`),
  ]);
  if (requestId) from.append(element("span", {}, ["request ", element("code", { id: "request-id" }, requestId)]));
  return [...parts, from];
}

function classification({ label, score, scores }) {
  const ranked = Object.entries(scores).sort(([, a], [, b]) => b - a);
  const bars = ranked.map(([name, share]) => bar(name, share));
  const list = element("ol", { class: "bars", "aria-label": "Probabilities" }, bars.slice(0, MOST_BARS));
  const parts = [
    element("p", { class: "result" }, [
      element("strong", { id: "label" }, label),
      element("span", { id: "score", class: "quiet" }, percent(score)),
    ]),
    list,
  ];
  if (bars.length > MOST_BARS) {
    const more = element("button", { type: "button", class: "link" }, `Show all ${bars.length} classes`);
    more.addEventListener("click", () => {
      list.append(...bars.slice(MOST_BARS));
      more.remove();
    });
    parts.push(more);
  }
  return parts;
}

function bar(name, share) {
  const filled = element("span", { class: "filled" });
  filled.style.inlineSize = `${100 * share}%`;
  return element("li", {}, [
    element("span", { class: "class", title: name }, name),
    element("span", { class: "track", "aria-hidden": "true" }, filled),
    element("span", { class: "share" }, percent(share)),
  ]);
}

function regression({ value }, target) {
  return [
    element("p", { class: "result" }, [
      element("strong", { id: "label" }, value.toLocaleString("en", { maximumSignificantDigits: 6 })),
      element("span", { class: "quiet" }, target ?? "value"),
    ]),
  ];
}

export function showError(error) {
  const title = TITLES[error.status] ?? "The endpoint failed";
  const lines = [element("strong", {}, title), element("p", { class: "message" }, error.message)];
  if (error.retryAfterS) lines.push(element("p", {}, `Try again in ${error.retryAfterS} s.`));
  const origin = [error.status && `HTTP ${error.status}`, error.requestId && `request ${error.requestId}`].filter(Boolean);
  if (origin.length) lines.push(element("p", { class: "quiet" }, origin.join(" · ")));
  return element("div", { class: "error" }, lines);
}

// The request as a command for a terminal.
export function curl({ body, type, file }) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const token = hasToken() ? ' \\\n  -H "Authorization: Bearer $TOKEN"' : "";
  const data = file === undefined ? `-d ${quoted(body)}` : `--data-binary ${quoted(`@${file}`)}`;
  return `curl ${quoted(address("predict"))}${token} \\\n  -H ${quoted(`Content-Type: ${type}`)} \\\n  ${data}`;
}

const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);
