// Drawing pad for mouse, finger, pen or keys.

import { element } from "./dom.js";
import { rasterise } from "./ink.js";

// In units of the pad's height.
const LINE = 0.07; // width of the line on the pad
const KEY_STEP = 0.05;
const MIN_MOVE = 0.005; // closer points are dropped
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// image: as in `rasterise`. onChange(rows of pixels, or null if empty) is called after each stroke.
export function createDrawingPad(image, onChange) {
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
  let pen = null; // stroke under way
  let cursor = null; // position of the keyboard's pen

  function paint() {
    const { clientWidth, clientHeight } = canvas;
    // Sharp on dense screens; setting the size also clears the canvas.
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
      // A path of one point draws nothing; a line to itself draws a dot.
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

  // Draws what the model sees, one canvas pixel per image pixel.
  function showPixels(pixels) {
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
    showPixels(pixels);
    onChange(pixels);
  }

  const position = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.height, (event.clientY - box.top) / box.height];
  };

  function startStroke(point) {
    pen = [point];
    strokes.push(pen);
    paint();
  }

  function extendStroke(point) {
    const [x, y] = pen.at(-1);
    if (Math.hypot(point[0] - x, point[1] - y) >= MIN_MOVE) pen.push(point);
  }

  function endStroke() {
    pen = null;
    change();
  }

  function clearPad() {
    strokes = [];
    pen = cursor = null;
    change();
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || pen) return;
    canvas.setPointerCapture(event.pointerId);
    cursor = null;
    startStroke(position(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pen || !canvas.hasPointerCapture(event.pointerId)) return;
    // Browsers merge moves into one event per frame; the points in between make curves round.
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length ? events : [event]) extendStroke(position(one));
    paint();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => pen && !cursor && endStroke());
  }

  canvas.addEventListener("keydown", (event) => {
    const move = ARROWS[event.key];
    if (move) {
      const [x, y] = cursor ?? [ratio / 2, 0.5];
      cursor = [clamp(x + KEY_STEP * move[0], ratio), clamp(y + KEY_STEP * move[1], 1)];
      if (pen) extendStroke(cursor);
      paint();
    } else if (event.key === " ") {
      cursor ??= [ratio / 2, 0.5];
      if (pen) endStroke();
      else startStroke(cursor);
    } else if (event.key === "Delete" || event.key === "Escape") {
      clearPad();
    } else {
      return;
    }
    event.preventDefault();
  });
  canvas.addEventListener("blur", () => {
    cursor = null;
    if (pen) endStroke();
    else paint();
  });

  undo.addEventListener("click", () => {
    strokes.pop();
    change();
  });
  clear.addEventListener("click", clearPad);
  fill.addEventListener("change", change);
  new ResizeObserver(paint).observe(canvas);

  const node = element("div", { class: "drawing" }, [
    canvas,
    element("div", { class: "pad-tools" }, [
      element("figure", {}, [seen, element("figcaption", {}, `The model sees ${image.width}\u00a0×\u00a0${image.height}`)]),
      element("div", { class: "line" }, [undo, clear]),
      element("label", { class: "check" }, [fill, "Fill shapes"]),
    ]),
    element("p", { id: "pad-help", class: "quiet help" }, [
      "Draw large or small, anywhere on the pad. ",
      element("span", { class: "by-key" }, "With keys: arrows move, space lowers and lifts the pen, delete clears."),
    ]),
  ]);
  showPixels(null);
  undo.disabled = clear.disabled = true;
  return { node, clear: clearPad };
}

const clamp = (number, limit) => Math.min(limit, Math.max(0, number));
