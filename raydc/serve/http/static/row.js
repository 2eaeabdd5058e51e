// Input of a table model: one field per column.

import { element } from "./dom.js";

// columns: the metadata's inputs. onSubmit gets { body, type } of the row.
export function createRowInput(columns, onSubmit) {
  const fields = columns.map((column) => ({ column, control: createControl(column) }));
  const button = element("button", { class: "main", id: "predict" }, "Predict");
  const form = element("form", { class: "row", noValidate: true }, [
    element("div", { class: "fields" }, fields.map(({ column, control }) =>
      element("div", { class: "field" }, [
        element("label", { for: control.id }, control.required ? `${column.name} *` : column.name),
        control,
      ]),
    )),
    element("div", { class: "line" }, [button, element("span", { class: "quiet" }, hintFor(fields))]),
  ]);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    for (const { control } of fields) control.removeAttribute("aria-invalid");
    const given = fields.filter(({ control }) => control.value !== "");
    const values = await Promise.all(given.map(({ column, control }) => valueOf(column, control)));
    const row = Object.fromEntries(given.map(({ column }, index) => [column.name, values[index]]));
    onSubmit({ body: JSON.stringify({ rows: [row] }), type: "application/json" });
  });
  return form;
}

function hintFor(fields) {
  const numRequired = fields.filter(({ control }) => control.required).length;
  if (numRequired === fields.length) return "Each field needs a value.";
  return `An empty field is a missing value.${numRequired ? " Those with * need a value." : ""}`;
}

// Marks the field that an error names, such as "rows[0].age: 'old' is not a number" or
// "rows[0].window[3].age: ..."; or, after
// "rows[0] has no value for 'age', 'job'", each empty one that needs a value.
export function markInvalid(node, message) {
  const [, place] = /^rows\[0\]\.(.+?): /.exec(message) ?? [];
  const name = place?.replace(/^window\[\d+\].*$/, "window");
  const lacksValues = message.startsWith("rows[0] has ");
  const invalid = [...node.querySelectorAll("[name]")].filter((control) =>
    lacksValues ? control.required && control.value === "" : control.name === name);
  for (const control of invalid) {
    control.setAttribute("aria-invalid", "true");
    control.setAttribute("aria-describedby", "error");
  }
  invalid[0]?.focus();
}

function createControl(column) {
  const { kind, categories, typical, required } = column.parameters ?? {};
  const attributes = { id: `column-${column.name}`, name: column.name, required: Boolean(required) };
  if (kind === "text") return element("textarea", { ...attributes, rows: 4 });
  // A list, and the past steps of a series, are written as JSON.
  if (kind === "list" || kind === "window") {
    const area = element("textarea", { ...attributes, rows: 4 });
    area.value = typical ?? "";
    return area;
  }
  // An image cannot be filled in.
  if (kind === "image") return element("input", { ...attributes, type: "file", accept: "image/*", required: true });
  if (!categories) {
    // Text, not type=number, which hides what it cannot parse: the endpoint's message explains it.
    return element("input", {
      ...attributes, type: "text", inputmode: kind === "date" ? "text" : "decimal", autocomplete: "off", value: String(typical ?? ""),
    });
  }
  const choices = categories.map((category) => element("option", { value: category }, category));
  // The last choice is empty, and the row is sent without the column.
  if (!required) choices.push(element("option", { value: "" }, "(missing)"));
  return element("select", attributes, choices);
}

function valueOf(column, control) {
  const kind = column.parameters?.kind;
  if (kind === "image") return base64Of(control.files[0]);
  const text = control.value;
  // A text that looks like a number is still a text.
  if (kind === "window") return parsed(text);
  const isNumeric = kind === "numeric";
  const number = Number(text);
  return isNumeric && text.trim() && Number.isFinite(number) ? number : text;
}

// A list that cannot be read stays a text: the endpoint's message says what is wrong with it.
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

// A file as JSON carries it: what follows the comma of a data URL.
function base64Of(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] ?? "");
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
