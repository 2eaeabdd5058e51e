// The model card: facts of the metadata, as a list of names and values.

import { element } from "./dom.js";

const MOST_CLASSES = 24;

export function summary({ parameters, inputs }) {
  const { task, target, classes = [] } = parameters;
  const { kind, width, height } = inputs[0].parameters ?? {};
  const from = kind === "image" ? `an image of ${width} × ${height} pixels` : counted(inputs.length, "column");
  const what = task === "regression" ? `Estimates ${target}` : `Predicts ${target}, one of ${classes.length} classes,`;
  return `${what} from ${from}.`;
}

export function facts({ name, versions, parameters }) {
  const held = parameters.held_out ?? {};
  const { num_rows: numRows, ...metrics } = held;
  const entries = [
    ["Task", `${parameters.task} of ${parameters.target}`],
    ["Network", network(parameters)],
    [numRows ? `Held-out (${number(numRows)} rows)` : "Held-out", measures(metrics)],
    ["Classes", chips(parameters.classes ?? [])],
    ["Version", `${versions[0]} of ${name}, as ${parameters.alias}`],
    ["Created", parameters.created && when(parameters.created)],
    ["Run", parameters.run && `${parameters.run}${parameters.step ? `, step ${number(parameters.step)}` : ""}`],
    ["Digest", element("code", { title: parameters.digest }, parameters.digest)],
  ];
  return entries.filter(([, value]) => value).map(([title, value]) =>
    element("div", {}, [element("dt", {}, title), element("dd", {}, value)]),
  );
}

function network({ network: name, num_weights: numWeights, compute }) {
  return [name, numWeights && `${number(numWeights)} weights`, compute].filter(Boolean).join(", ");
}

function measures(metrics) {
  const known = Object.entries(metrics);
  if (!known.length) return null;
  return element("span", { class: "measures" }, known.map(([name, value]) =>
    element("span", {}, [element("b", {}, digits(value)), ` ${name.replaceAll("_", " ")}`]),
  ));
}

function chips(classes) {
  if (!classes.length) return null;
  const shown = classes.slice(0, MOST_CLASSES).map((name) => element("span", { class: "chip" }, name));
  const rest = classes.length - shown.length;
  return element("span", { class: "chips" }, rest ? [...shown, `and ${rest} more`] : shown);
}

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const number = (value) => value.toLocaleString("en");
const digits = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });
const when = (iso) => new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
