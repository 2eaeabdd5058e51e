// Creates elements without markup: names of classes and columns come from data and must stay text.

// element("p", { class: "quiet" }, "text"); children may also be a list of texts and elements.
export function element(name, attributes = {}, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    // Booleans, numbers and functions are properties; everything else is an attribute.
    if (key in made && typeof value !== "string") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...[children].flat());
  return made;
}

export const byId = (id) => document.getElementById(id);
