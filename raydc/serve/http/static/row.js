// A table model's input: one field for each column.

import { element } from "./dom.js";

// columns: the metadata's inputs. onSubmit({ body, type }) is called with what was filled in.
export function rowInput(columns, onSubmit) {
  const fields = columns.map((column) => ({ column, control: makeControl(column) }));
  const button = element("button", { class: "main", id: "predict" }, "Predict");
  const form = element("form", { class: "row", noValidate: true }, [
    element("div", { class: "fields" }, fields.map(({ column, control }) =>
      element("div", { class: "field" }, [
        element("label", { for: control.id }, column.name),
        control,
      ]),
    )),
    element("div", { class: "line" }, [button, element("span", { class: "quiet" }, "A field left empty is a missing value.")]),
  ]);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    for (const { control } of fields) control.removeAttribute("aria-invalid");
    const given = fields.filter(({ control }) => control.value !== "");
    const row = Object.fromEntries(given.map(({ column, control }) => [column.name, valueOf(column, control.value)]));
    onSubmit({ body: JSON.stringify({ rows: [row] }), type: "application/json" });
  });
  return form;
}

// Marks the field that an error such as "rows[0].age: 'old' is not a number" is about.
export function markWrong(node, message) {
  const [, name] = /^rows\[0\]\.(.+?): /.exec(message) ?? [];
  const wrong = name && [...node.querySelectorAll("[name]")].find((control) => control.name === name);
  if (!wrong) return;
  wrong.setAttribute("aria-invalid", "true");
  wrong.setAttribute("aria-describedby", "error");
  wrong.focus();
}

function makeControl(column) {
  const { kind, categories, typical } = column.parameters ?? {};
  const attributes = { id: `column-${column.name}`, name: column.name };
  if (kind !== "categorical") {
    // Text, not type=number: what somebody typed wrong must reach the endpoint, whose message says what is wrong.
    return element("input", {
      ...attributes, type: "text", inputmode: "decimal", autocomplete: "off", value: String(typical ?? ""),
    });
  }
  const choices = categories.map((category) => element("option", { value: category }, category));
  return element("select", attributes, [...choices, element("option", { value: "" }, "(missing)")]);
}

function valueOf(column, text) {
  const number = Number(text);
  return column.parameters?.kind !== "categorical" && text.trim() && Number.isFinite(number) ? number : text;
}
