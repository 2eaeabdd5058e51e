// Elements without markup in strings: names of classes and columns come from data and stay text.

// element("p", { class: "quiet" }, "text") or with a list of children.
export function element(name, attributes = {}, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && typeof value !== "string") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...[children].flat());
  return made;
}

export const byId = (id) => document.getElementById(id);
