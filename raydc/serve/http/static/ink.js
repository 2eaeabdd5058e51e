// Turns pen strokes into pixels like those of the training data. Pure functions; no canvas is read,
// which some browsers blur or forbid.
//
// Strokes are lists of points [x, y] in units of the pad's height. They are drawn at the model's size:
// scaled to fill as much of the image as ink does in the training data, in proportion, with their
// centre of mass in the middle, with a pen as wide as that of the digits of MNIST and scikit-learn,
// averaged over 4 x 4 samples per pixel. So position, size and detail on the pad do not matter.

const SAMPLES = 4; // per pixel and axis
const PEN = 0.18; // width, as a fraction of the ink's extent
const MAX_ZOOM = 5; // a dot stays a dot

// image: { height, width, ink: { ground, level, extent } } from the model's metadata.
// fill: whether closed shapes are filled, as in drawings of clothes.
// Returns rows of integers from 0 to 255, or null if nothing is drawn.
export function rasterise(strokes, image, fill = false) {
  const points = strokes.flat();
  if (!points.length) return null;
  const { height, width, ink } = image;
  const size = ink.extent * Math.min(height, width);
  const pen = PEN * size;
  const [left, right] = range(points.map(([x]) => x));
  const [top, bottom] = range(points.map(([, y]) => y));
  const zoom = Math.min(
    (ink.extent * width - pen) / (right - left),
    (ink.extent * height - pen) / (bottom - top),
    MAX_ZOOM * size,
  );
  const place = (dx, dy) =>
    strokes.map((stroke) =>
      stroke.map(([x, y]) => [
        width / 2 + dx + zoom * (x - (left + right) / 2),
        height / 2 + dy + zoom * (y - (top + bottom) / 2),
      ]),
    );
  // Drawn twice: the centre of mass is known only after the first time.
  const [x, y] = centreOfMass(coverage(place(0, 0), height, width, pen / 2, fill));
  const shift = (offset, side, extent) => clamp(side / 2 - offset, (side - extent) / 2);
  const dx = shift(x, width, zoom * (right - left) + pen);
  const dy = shift(y, height, zoom * (bottom - top) + pen);
  // Filled shapes have the mean grey of the data's ink; lines are as strong as a pen can be.
  const strength = fill ? ink.level : ink.ground > 127 ? 0 : 255;
  return coverage(place(dx, dy), height, width, pen / 2, fill).map((row) =>
    row.map((covered) => Math.round(ink.ground + covered * (strength - ink.ground))),
  );
}

// Fraction of each pixel that is covered, 0 to 1.
function coverage(strokes, height, width, radius, fill) {
  const segments = strokes.flatMap((stroke) =>
    stroke.map((point, index) => [...stroke[Math.max(index - 1, 0)], ...point]),
  );
  const isInk = (x, y) =>
    segments.some((segment) => isNear(x, y, segment, radius)) || (fill && strokes.some((s) => isInside(x, y, s)));
  return Array.from({ length: height }, (_, row) =>
    Array.from({ length: width }, (_, column) => {
      let hits = 0;
      for (let i = 0; i < SAMPLES; i++) {
        for (let j = 0; j < SAMPLES; j++) {
          if (isInk(column + (j + 0.5) / SAMPLES, row + (i + 0.5) / SAMPLES)) hits++;
        }
      }
      return hits / SAMPLES ** 2;
    }),
  );
}

// Whether a point is at most `radius` from a segment.
function isNear(x, y, [x1, y1, x2, y2], radius) {
  const [dx, dy] = [x2 - x1, y2 - y1];
  const along = dx || dy ? Math.min(1, Math.max(0, ((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy))) : 0;
  return (x1 + along * dx - x) ** 2 + (y1 + along * dy - y) ** 2 <= radius * radius;
}

// Even-odd rule; a line from the end of the stroke to its start closes it.
function isInside(x, y, stroke) {
  let inside = false;
  stroke.forEach(([x1, y1], index) => {
    const [x2, y2] = stroke[(index + 1) % stroke.length];
    if (y1 > y !== y2 > y && x < x1 + ((y - y1) / (y2 - y1)) * (x2 - x1)) inside = !inside;
  });
  return inside;
}

function centreOfMass(rows) {
  let [mass, x, y] = [0, 0, 0];
  rows.forEach((row, i) =>
    row.forEach((covered, j) => {
      mass += covered;
      x += covered * (j + 0.5);
      y += covered * (i + 0.5);
    }),
  );
  return mass ? [x / mass, y / mass] : [rows[0].length / 2, rows.length / 2];
}

const range = (numbers) => [Math.min(...numbers), Math.max(...numbers)];
const clamp = (number, limit) => Math.min(Math.max(limit, 0), Math.max(Math.min(-limit, 0), number));
