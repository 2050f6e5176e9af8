// The picture with its boxes.

import { EDGES, FACES, ahead, facing, homogeneous, horizon } from "/page/geometry.js";
import { labels, mixed, polygon, prepared } from "/page/looks.js";

/**
 * Draws a picture. item: { bitmap, entry }; shown: rows { number, detection, colour }, nearest first; camera: whose
 * horizon is drawn, or null; chosen: the number of the row that stands out; words: whether boxes are named.
 * Returns what maps pixels of the picture to the canvas.
 */
export function drawPicture(canvas, item, { shown, camera, chosen, words = true, mostHeight = Infinity }) {
  const [wide, high] = [item.bitmap.width, item.bitmap.height];
  const { pen, width, height } = prepared(canvas, wide / high, mostHeight);
  const zoom = Math.min(width / wide, height / high);
  const moved = ([u, v]) => [(width - wide * zoom) / 2 + u * zoom, v * zoom];
  pen.drawImage(item.bitmap, ...moved([0, 0]), wide * zoom, high * zoom);
  if (camera) drawHorizon(pen, horizon(camera).map(moved));
  if (!item.entry) return { moved };
  const outlines = new Map();
  for (const row of [...shown].reverse()) {
    outlines.set(row, drawBox(pen, row, item.entry.camera, moved, chosen === row.number, zoom * wide));
  }
  if (!words) return { moved };
  const write = labels(pen, width, height);
  for (const row of [...shown].sort((a, b) => (b.number === chosen) - (a.number === chosen))) {
    const points = outlines.get(row);
    if (!points.length) continue;
    const [left, top] = [Math.min(...points.map((p) => p[0])), Math.min(...points.map((p) => p[1]))];
    if (left > width || top > height) continue;
    write(`${row.number} ${row.detection.class} ${row.detection.depth_m.toFixed(0)} m`, left, top - 2, {
      chip: row.colour,
      ink: "#10141b",
    });
  }
  return { moved };
}

function drawHorizon(pen, ends) {
  polygon(pen, ends, { stroke: "rgba(16,20,27,.8)", width: 3.5, closed: false });
  polygon(pen, ends, { stroke: "#fff", width: 1.5, closed: false, dash: [7, 6] });
}

/** Draws one box; returns the pixels of its corners that are ahead. */
function drawBox(pen, row, camera, moved, isChosen, wide) {
  const { corners_m: corners } = row.detection;
  const pixels = corners.map((corner) => homogeneous(camera, corner));
  const towards = facing(corners, [0, 0, 0]);
  FACES.forEach((face, index) => {
    if (!towards[index]) return;
    const points = ahead(face.map((corner) => pixels[corner])).map(moved);
    polygon(pen, points, { fill: mixed(row.colour, 0, index === 0 ? 0.4 : 0.12) });
  });
  const thick = Math.max(1.2, wide / 640) + (isChosen ? 1.5 : 0);
  const seen = ([a, b]) => FACES.some((face, index) => towards[index] && face.includes(a) && face.includes(b));
  const line = (edge) => ahead(edge.map((corner) => pixels[corner]), { closed: false }).map(moved);
  const visible = EDGES.filter(seen).map(line);
  for (const points of EDGES.filter((edge) => !seen(edge)).map(line)) {
    polygon(pen, points, { stroke: mixed(row.colour, -0.3, 0.8), width: 1, closed: false });
  }
  for (const points of visible) polygon(pen, points, { stroke: "rgba(16,20,27,.75)", width: thick + 2, closed: false });
  for (const points of visible) {
    polygon(pen, points, { stroke: isChosen ? "#fff" : row.colour, width: thick, closed: false });
  }
  return visible.flat();
}
