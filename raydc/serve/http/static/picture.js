// An image model's input: a pad where its images are drawings, and a file in any case.

import { element } from "./dom.js";
import { drawingPad } from "./pad.js";

// column: an entry of the metadata's inputs. onChange({ body, type, file }) or onChange(null).
export function pictureInput(column, onChange) {
  const image = column.parameters;
  const preview = element("img", { class: "preview", alt: "The chosen image", hidden: true });
  const caption = element("span", { class: "quiet" });
  const chooser = element("input", { type: "file", id: "file", accept: "image/*", class: "visually-hidden" });
  const pad = image.ink && drawingPad(image, (pixels) => {
    if (pixels) forget();
    onChange(pixels && { body: JSON.stringify({ rows: [{ [column.name]: pixels }] }), type: "application/json" });
  });
  const zone = element("div", { class: pad ? "zone small" : "zone" }, [
    preview,
    element("div", {}, [
      chooser,
      element("label", { for: "file", class: "button" }, "Choose an image"),
      element("span", { class: "quiet by-mouse" }, " or drop one here"),
    ]),
    caption,
  ]);

  function forget() {
    URL.revokeObjectURL(preview.src);
    preview.removeAttribute("src");
    preview.hidden = true;
    chooser.value = "";
    caption.textContent = pad ? "" : expected(image);
  }

  function take(file) {
    if (!file) return;
    pad?.empty();
    forget();
    preview.src = URL.createObjectURL(file);
    preview.hidden = false;
    caption.textContent = `${file.name}, ${kilobytes(file.size)}`;
    onChange({ body: file, type: file.type || "image/png", file: file.name });
  }

  chooser.addEventListener("change", () => take(chooser.files[0]));
  const node = element("div", { class: "picture" }, [...(pad ? [pad.node] : []), zone]);
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    node.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.toggle("over", name === "dragenter" || name === "dragover");
    });
  }
  node.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
  forget();
  return node;
}

const expected = (image) =>
  `The file is sent as it is; the model sees ${image.width} × ${image.height} pixels` +
  (image.channels === 1 ? " in grey." : ".");
const kilobytes = (bytes) => `${Math.max(1, Math.round(bytes / 1000)).toLocaleString("en")} kB`;
