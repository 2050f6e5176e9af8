// The street from above.

import { labels, mixed, polygon, prepared, theme } from "/page/looks.js";

const CAR = [[0, 1.2], [1, -1.6], [0, -0.9], [-1, -1.6]]; // an arrow

export const rangeOf = (shown) => {
  const furthest = Math.max(0, ...shown.map((row) => row.detection.depth_m));
  return Math.min(Math.max(Math.ceil(furthest / 10 + 0.2) * 10, 30), 100);
};

/** Draws it. shown: see drawPicture; slopes: x / z of the picture's left and right edge. */
export function drawAbove(canvas, { shown, chosen, slopes }) {
  const { pen, width, height } = prepared(canvas, 1.05);
  const colours = theme();
  const range = rangeOf(shown);
  const scale = (0.86 * height) / range;
  const moved = ([x, z]) => [width / 2 + x * scale, height * 0.92 - z * scale];
  if (slopes) {
    const edges = [[0, 0], ...slopes.map((slope) => [slope * 2 * range, 2 * range])];
    polygon(pen, edges.map(moved), { fill: colours.dark ? "rgba(120,140,170,.16)" : "rgba(255,255,255,.85)" });
  }
  const write = labels(pen, width, height, 11);
  const step = range > 60 ? 20 : 10;
  for (let distance = 10; distance <= range; distance += 10) {
    const ring = Array.from({ length: 61 }, (_, i) => (Math.PI * i) / 60).map((turn) =>
      moved([distance * Math.cos(turn), distance * Math.sin(turn)]),
    );
    polygon(pen, ring, { stroke: colours.rule, closed: false });
    if (distance % step) continue;
    const aside = Math.min(0.75, Math.asin(Math.min(1, (width / 2 - 34) / (scale * distance))));
    const at = moved([distance * Math.sin(aside), distance * Math.cos(aside)]);
    write(`${distance} m`, at[0] - 12, at[1] + 8, { ink: colours.faint });
  }
  polygon(pen, CAR.map(([x, z]) => [width / 2 + x * 9, height * 0.92 - z * 9]), { fill: colours.ink });
  for (const row of [...shown].reverse()) drawFootprint(pen, row, moved, chosen === row.number, colours);
  for (const row of shown) {
    const at = moved([row.detection.bottom_centre_m[0], row.detection.bottom_centre_m[2]]);
    const beside = 8 + (row.detection.height_width_length_m[2] * scale) / 2;
    write(`${row.number}`, at[0] + Math.min(beside, 16), at[1] + 8, { ink: colours.ink });
  }
  return { moved };
}

function drawFootprint(pen, row, moved, isChosen, colours) {
  const outline = row.detection.corners_m.slice(0, 4).map(([x, , z]) => moved([x, z]));
  const edge = isChosen ? colours.ink : mixed(row.colour, colours.dark ? 0 : -0.35);
  polygon(pen, outline, { fill: mixed(row.colour, 0, 0.55), stroke: edge, width: isChosen ? 2.5 : 1.3 });
  polygon(pen, outline.slice(0, 2), { stroke: edge, width: isChosen ? 5 : 3.5, closed: false });
}
