// A pad to draw on with mouse, finger, pen or keys.

import { element } from "./dom.js";
import { rasterise } from "./ink.js";

const LINE = 0.07; // width of the line on the pad, of its height
const KEY_STEP = 0.05;
const LEAST_MOVE = 0.005;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// image: as in `rasterise`. onChange(rows of pixels, or null) is called when a stroke ends.
export function drawingPad(image, onChange) {
  const ratio = image.width / image.height;
  const canvas = element("canvas", {
    id: "pad",
    class: "pad",
    tabIndex: 0,
    role: "application",
    "aria-label": "Drawing pad",
    "aria-describedby": "pad-help",
  });
  const seen = element("canvas", { id: "seen", class: "seen", width: image.width, height: image.height, "aria-hidden": "true" });
  const fill = element("input", { type: "checkbox", id: "fill" });
  const undo = element("button", { type: "button", id: "undo" }, "Undo");
  const clear = element("button", { type: "button", id: "clear" }, "Clear");
  canvas.style.aspectRatio = String(ratio);
  let strokes = [];
  let pen = null; // the stroke that is being drawn
  let cursor = null; // of the keys

  function paint() {
    const { clientWidth, clientHeight } = canvas;
    const density = window.devicePixelRatio || 1;
    canvas.width = Math.round(clientWidth * density);
    canvas.height = Math.round(clientHeight * density);
    const isDark = image.ink.ground < 128;
    const context = canvas.getContext("2d");
    context.fillStyle = isDark ? "#000" : "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.scale(canvas.height, canvas.height);
    Object.assign(context, { lineWidth: LINE, lineCap: "round", lineJoin: "round" });
    context.strokeStyle = context.fillStyle = isDark ? "#fff" : "#000";
    for (const stroke of strokes) {
      const path = new Path2D();
      stroke.forEach(([x, y], index) => (index ? path.lineTo(x, y) : path.moveTo(x, y)));
      if (stroke.length === 1) path.lineTo(...stroke[0]);
      context.stroke(path);
      if (fill.checked) context.fill(path, "evenodd");
    }
    if (cursor) {
      context.fillStyle = pen ? "#3b82f6" : "#f59e0b";
      context.beginPath();
      context.arc(...cursor, LINE / 2, 0, 2 * Math.PI);
      context.fill();
    }
  }

  function show(pixels) {
    const context = seen.getContext("2d");
    const blank = Array(image.width).fill(image.ink.ground);
    for (let y = 0; y < image.height; y++) {
      for (let x = 0; x < image.width; x++) {
        const grey = (pixels?.[y] ?? blank)[x];
        context.fillStyle = `rgb(${grey} ${grey} ${grey})`;
        context.fillRect(x, y, 1, 1);
      }
    }
  }

  function change() {
    const pixels = rasterise(strokes, image, fill.checked);
    undo.disabled = clear.disabled = !strokes.length;
    fill.disabled = !strokes.length && !fill.checked;
    paint();
    show(pixels);
    onChange(pixels);
  }

  const position = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.height, (event.clientY - box.top) / box.height];
  };

  function begin(point) {
    pen = [point];
    strokes.push(pen);
    paint();
  }

  function extend(point) {
    const [x, y] = pen.at(-1);
    if (Math.hypot(point[0] - x, point[1] - y) >= LEAST_MOVE) pen.push(point);
  }

  function end() {
    pen = null;
    change();
  }

  function empty() {
    strokes = [];
    pen = cursor = null;
    change();
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || pen) return;
    canvas.setPointerCapture(event.pointerId);
    cursor = null;
    begin(position(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pen || !canvas.hasPointerCapture(event.pointerId)) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) extend(position(one));
    paint();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => pen && !cursor && end());
  }

  canvas.addEventListener("keydown", (event) => {
    const move = ARROWS[event.key];
    if (move) {
      const [x, y] = cursor ?? [ratio / 2, 0.5];
      cursor = [clamp(x + KEY_STEP * move[0], ratio), clamp(y + KEY_STEP * move[1], 1)];
      if (pen) extend(cursor);
      paint();
    } else if (event.key === " ") {
      cursor ??= [ratio / 2, 0.5];
      if (pen) end();
      else begin(cursor);
    } else if (event.key === "Delete" || event.key === "Escape") {
      empty();
    } else {
      return;
    }
    event.preventDefault();
  });
  canvas.addEventListener("blur", () => {
    cursor = null;
    if (pen) end();
    else paint();
  });

  undo.addEventListener("click", () => {
    strokes.pop();
    change();
  });
  clear.addEventListener("click", empty);
  fill.addEventListener("change", change);
  new ResizeObserver(paint).observe(canvas);

  const node = element("div", { class: "drawing" }, [
    canvas,
    element("div", { class: "beside" }, [
      element("figure", {}, [seen, element("figcaption", {}, `What the model gets: ${image.width} × ${image.height}`)]),
      element("div", { class: "line" }, [undo, clear]),
      element("label", { class: "check" }, [fill, "Fill shapes"]),
    ]),
    element("p", { id: "pad-help", class: "quiet help" }, [
      "Large or small, anywhere on the pad. ",
      element("span", { class: "by-key" }, "By keyboard: arrows move, space puts the pen down and lifts it, delete clears."),
    ]),
  ]);
  show(null);
  undo.disabled = clear.disabled = true;
  return { node, empty };
}

const clamp = (number, limit) => Math.min(limit, Math.max(0, number));
