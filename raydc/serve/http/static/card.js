// Model card: a sentence and a list of facts from the metadata.

import { element } from "./dom.js";

const MAX_CLASSES = 24; // more are counted, not named

export function describeModel({ parameters, inputs }) {
  const { task, target, classes = [], max_tokens: maxTokens, chat } = parameters;
  if (task === "language_modelling") return `${chat ? "Answers messages and continues texts" : "Continues texts"}, token by token, of up to ${number(maxTokens)} tokens.`;
  const { kind, width, height } = inputs[0].parameters ?? {};
  const isImage = inputs.length === 1 && kind === "image";
  const from = isImage ? `an image of ${width} × ${height} pixels` : pluralise(inputs.length, "column");
  const what = { regression: "", multilabel: `, any of ${pluralise(classes.length, "label")},` };
  return `Predicts ${target}${what[task] ?? `, one of ${classes.length} classes,`} from ${from}.`;
}

export function describeFacts({ name, versions, parameters }) {
  const { num_rows: numRows, ...metrics } = parameters.held_out ?? {};
  const entries = [
    ["Task", `${parameters.task.replaceAll("_", " ")} of ${parameters.target}`],
    ["Network", describeNetwork(parameters)],
    ["Answers", parameters.task === "language_modelling" && parameters.answer],
    [numRows ? `Held-out data (${number(numRows)} rows)` : "Held-out data", listMetrics(metrics)],
    [parameters.task === "multilabel" ? "Labels" : "Classes", listClasses(parameters.classes ?? [])],
    ["Threshold", parameters.threshold],
    ["Version", `${versions[0]} of ${name}, alias ${parameters.alias}`],
    ["Created", parameters.created && when(parameters.created)],
    ["Run", parameters.run && `${parameters.run}${parameters.step ? `, step ${number(parameters.step)}` : ""}`],
    ["Digest", element("code", { title: parameters.digest }, parameters.digest)],
  ];
  // Older versions lack some facts.
  return entries.filter(([, value]) => value).map(([title, value]) =>
    element("div", {}, [element("dt", {}, title), element("dd", {}, value)]),
  );
}

function describeNetwork({ network: name, num_weights: numWeights, compute }) {
  return [name, numWeights && `${number(numWeights)} weights`, compute].filter(Boolean).join(", ");
}

function listMetrics(metrics) {
  const known = Object.entries(metrics);
  if (!known.length) return null;
  return element("span", { class: "measures" }, known.map(([name, value]) =>
    element("span", {}, [element("b", {}, digits(value)), ` ${name.replaceAll("_", " ")}`]),
  ));
}

function listClasses(classes) {
  if (!classes.length) return null;
  const shown = classes.slice(0, MAX_CLASSES).map((name) => element("span", { class: "chip" }, name));
  const rest = classes.length - shown.length;
  return element("span", { class: "chips" }, rest ? [...shown, `and ${rest} more`] : shown);
}

const pluralise = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const number = (value) => value.toLocaleString("en");
const digits = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });
const when = (iso) => new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
