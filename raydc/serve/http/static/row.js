// Input of a table model: one field per column.

import { element } from "./dom.js";

// columns: the metadata's inputs. onSubmit gets { body, type } of the row.
export function createRowInput(columns, onSubmit) {
  const fields = columns.map((column) => ({ column, control: createControl(column) }));
  const button = element("button", { class: "main", id: "predict" }, "Predict");
  const form = element("form", { class: "row", noValidate: true }, [
    element("div", { class: "fields" }, fields.map(({ column, control }) =>
      element("div", { class: "field" }, [
        element("label", { for: control.id }, column.name),
        control,
      ]),
    )),
    element("div", { class: "line" }, [button, element("span", { class: "quiet" }, "An empty field is a missing value.")]),
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

// Marks the field that an error names, such as "rows[0].age: 'old' is not a number".
export function markInvalid(node, message) {
  const [, name] = /^rows\[0\]\.(.+?): /.exec(message) ?? [];
  const invalid = name && [...node.querySelectorAll("[name]")].find((control) => control.name === name);
  if (!invalid) return;
  invalid.setAttribute("aria-invalid", "true");
  invalid.setAttribute("aria-describedby", "error");
  invalid.focus();
}

function createControl(column) {
  const { kind, categories, typical } = column.parameters ?? {};
  const attributes = { id: `column-${column.name}`, name: column.name };
  if (kind !== "categorical") {
    // Text, not type=number, which hides what it cannot parse: the endpoint's message explains it.
    return element("input", {
      ...attributes, type: "text", inputmode: "decimal", autocomplete: "off", value: String(typical ?? ""),
    });
  }
  // The last choice is empty, and the row is sent without the column.
  const choices = categories.map((category) => element("option", { value: category }, category));
  return element("select", attributes, [...choices, element("option", { value: "" }, "(missing)")]);
}

function valueOf(column, text) {
  const number = Number(text);
  return column.parameters?.kind !== "categorical" && text.trim() && Number.isFinite(number) ? number : text;
}
