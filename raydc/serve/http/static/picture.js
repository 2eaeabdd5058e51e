// Input of an image model: a file, and a drawing pad if its images are drawings.

import { element } from "./dom.js";
import { createDrawingPad } from "./pad.js";

// column: an entry of the metadata's inputs. onChange gets { body, type, file }, or null for no image.
export function createPictureInput(column, onChange) {
  const image = column.parameters;
  const preview = element("img", { class: "preview", alt: "The chosen image", hidden: true });
  const caption = element("span", { class: "quiet" });
  const chooser = element("input", { type: "file", id: "file", accept: "image/*", class: "visually-hidden" });
  const pad = image.ink && createDrawingPad(image, (pixels) => {
    if (pixels) forgetFile();
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

  function forgetFile() {
    URL.revokeObjectURL(preview.src);
    preview.removeAttribute("src");
    preview.hidden = true;
    chooser.value = ""; // otherwise choosing the same file again is no change
    caption.textContent = pad ? "" : describeExpected(image);
  }

  function takeFile(file) {
    if (!file) return;
    pad?.clear();
    forgetFile();
    preview.src = URL.createObjectURL(file);
    preview.hidden = false;
    caption.textContent = `${file.name}, ${kilobytes(file.size)}`;
    onChange({ body: file, type: file.type || "image/png", file: file.name });
  }

  chooser.addEventListener("change", () => takeFile(chooser.files[0]));
  const node = element("div", { class: "picture" }, [...(pad ? [pad.node] : []), zone]);
  // Without preventDefault on each of these, the browser opens the file itself.
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    node.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.toggle("over", name === "dragenter" || name === "dragover");
    });
  }
  node.addEventListener("drop", (event) => takeFile(event.dataTransfer.files[0]));
  forgetFile();
  return node;
}

const describeExpected = (image) =>
  `The file is sent unchanged; the model sees ${image.width} × ${image.height} pixels` +
  (image.channels === 1 ? " in grey." : ".");
const kilobytes = (bytes) => `${Math.max(1, Math.round(bytes / 1000)).toLocaleString("en")} kB`;
