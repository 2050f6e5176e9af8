// What the page writes about the objects that are shown: tiles, classes, table.

import { hfovOf } from "/page/geometry.js";

const GREY = "#b0b8c4";
export const get = (id) => document.getElementById(id);
export const colourOf = (name, about) => about.classes[name] ?? GREY;
export const counted = (objects) => `${objects.length} ${objects.length === 1 ? "object" : "objects"}`;
export const scoreText = (score) => score.toFixed(score < 0.1 ? 3 : 2);

export function made(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export const wordsOf = (one) => `${one.class} ${one.depth_m.toFixed(1)} m ahead, ${side(one)}`;

function side({ bottom_centre_m: [x] }) {
  return Math.abs(x) < 0.05 ? "straight ahead" : `${Math.abs(x).toFixed(1)} m ${x < 0 ? "left" : "right"}`;
}

/** What people look for first. */
export function tiles(item, shown, least) {
  const { camera } = item.entry;
  const nearest = shown[0]?.detection;
  const isAssumed = camera.source === "assumed";
  const focal = camera.focal_px[0];
  const tiles = [
    ["Objects", `${shown.length}`, `score of ${scoreText(least)} or more`],
    ["Nearest", nearest ? `${nearest.depth_m.toFixed(1)} m` : "-", nearest ? `${nearest.class}, ${side(nearest)}` : ""],
    ["Field of view", `${hfovOf(focal, camera.width).toFixed(0)}°`, isAssumed ? "assumed: correct it" : `${focal.toFixed(0)} px focal length`, isAssumed ? "warn" : ""],
    ["Answer after", `${item.seconds.toFixed(1)} s`, `${camera.width} x ${camera.height} px`],
  ];
  get("tiles").replaceChildren(...tiles.map(([name, value, remark, tone = ""]) => {
    const tile = made("div", "", { class: `tile ${tone}` });
    tile.append(made("span", name), made("b", value), made("span", remark));
    return tile;
  }));
}

/** A box to tick for each class, those that the model knows first. */
export function classBoxes(item, { about, off }) {
  const names = [...new Set([...Object.keys(about.classes), ...item.entry.detections.map((one) => one.class)])];
  const boxes = get("class-boxes");
  if (boxes.dataset.names === names.join()) return; // keeps the focus
  boxes.dataset.names = names.join();
  boxes.replaceChildren(...names.map((name) => {
    const label = made("label", "", { class: "check" });
    const box = made("input", "", { type: "checkbox", value: name });
    box.checked = !off.has(name);
    const chip = made("span", "", { class: "chip" });
    chip.style.background = colourOf(name, about);
    label.append(box, chip, name);
    return label;
  }));
}

/** A row for each object that is shown. */
export function table(shown, chosen) {
  const focused = document.activeElement?.dataset?.number;
  get("objects").tBodies[0].replaceChildren(...shown.map(({ number, detection, colour }) => {
    const line = made("tr", "", chosen === number ? { class: "chosen" } : {});
    const button = made("button", "", { type: "button", "data-number": number, "aria-pressed": chosen === number });
    const chip = made("span", "", { class: "chip" });
    chip.style.background = colour;
    button.append(chip, `${number} ${detection.class}`);
    const first = made("td", "", { class: "label" });
    first.append(button);
    const size = detection.height_width_length_m.map((metres) => metres.toFixed(1)).join(" x ");
    const spread = detection.depth_std_m === null ? "" : ` ± ${detection.depth_std_m.toFixed(1)}`;
    const cells = [scoreText(detection.score), `${detection.depth_m.toFixed(1)}${spread} m`, side(detection), `${size} m`];
    line.append(first, ...cells.map((cell) => made("td", cell)));
    return line;
  }));
  if (focused) get("objects").querySelector(`[data-number="${focused}"]`)?.focus();
  get("none").textContent = shown.length ? "" : "No object has this score. Lower the least score to see weaker ones.";
}
