// The page: what the reader has given, what is shown of it, and what happens when something changes.

import { drawAbove } from "/page/above.js";
import { classBoxes, colourOf, counted, get, made, scoreText, table, tiles, wordsOf } from "/page/facts.js";
import { kittiText, save } from "/page/files.js";
import { focalOf, hfovOf, levelRotation } from "/page/geometry.js";
import { drawPicture } from "/page/picture.js";
import { about, example, predict } from "/page/server.js";
import { Space } from "/page/space.js";

const [LEAST_HEIGHT_PX, MOST_WIDTH_PX] = [190, 1400]; // of the picture on a narrow screen
const PAUSE_MS = 500; // after a change of the camera, before the server is asked
const space = new Space(get("space"));
const state = { about: { classes: {}, score: 0, upload_bytes: Infinity }, items: [], current: null, least: 0, off: new Set(), chosen: null };

const say = (line) => (get("status").textContent = line);
const complain = (line) => get("errors").append(made("p", line));

// --- what the reader gives ---

async function take(files, projection) {
  get("errors").replaceChildren();
  const items = [...files].map((file) => ({ file, projection, camera: { projection }, pitch: 0, roll: 0 }));
  const before = state.items.length;
  for (const item of items) {
    if (item.file.size > state.about.upload_bytes) {
      complain(`${item.file.name}: expected at most ${mebibytes()} MiB, got more: choose a smaller picture`);
      continue;
    }
    item.bitmap = await createImageBitmap(item.file).catch(() => null);
    state.items.push(item);
    await ask(item);
    if (item.entry && (before === state.items.length - 1 || !state.current)) select(item);
  }
  const found = state.items.includes(items.at(-1)) && items.at(-1);
  if (found && items.length === 1) select(found);
  renderAll();
}

/** Asks the server for the boxes of one picture; a later question about the same picture replaces an earlier one. */
async function ask(item) {
  item.asking?.abort();
  const asking = (item.asking = new AbortController());
  const started = performance.now();
  say(`Sending ${item.file.name}.`);
  try {
    const camera = { ...item.camera, pitch_deg: item.pitch, roll_deg: item.roll };
    const answer = await predict(item.file, camera, { say, signal: asking.signal });
    if (asking.signal.aborted) return;
    item.bitmap ??= await createImageBitmap(item.file);
    item.entry = answer.images[0];
    item.schema = answer.schema;
    item.seconds = (performance.now() - started) / 1000;
    item.problem = "";
    say(`${item.file.name}: ${counted(rows(item))} shown.`);
  } catch (error) {
    if (asking.signal.aborted) return;
    item.problem = error.message;
    complain(`${item.file.name}: ${error.message}`);
    say("");
    if (!item.entry) state.items = state.items.filter((other) => other !== item);
  }
  renderAll();
}

function select(item) {
  if (state.current !== item) state.chosen = null;
  state.current = item;
  renderCamera();
  renderAll();
}

// --- what is shown ---

/** The detections that are shown, nearest first and numbered from 1. */
function rows(item) {
  return item.entry.detections
    .filter((one) => one.score >= state.least && !state.off.has(one.class))
    .sort((a, b) => a.depth_m - b.depth_m)
    .map((detection, index) => ({ number: index + 1, detection, colour: colourOf(detection.class, state.about) }));
}

/** The camera that the fields describe, also before the server has answered. */
function impliedCamera(item) {
  const { width, height } = item.entry.camera;
  const { hfov_deg: hfov, focal_px: given } = item.camera;
  const focal = given ?? (hfov === undefined ? undefined : focalOf(hfov, width));
  const plain = [[focal, 0, width / 2, 0], [0, focal, height / 2, 0], [0, 0, 1, 0]];
  const projection = focal === undefined ? item.entry.camera.projection : plain;
  return { projection, rotation_to_level: levelRotation(item.pitch, item.roll) };
}

function renderAll() {
  renderGallery();
  const item = state.current;
  get("result").hidden = !item;
  if (!item) return;
  const shown = rows(item);
  get("name").textContent = item.file.name;
  tiles(item, shown, state.least);
  renderViews(item, shown);
  renderLeast(item);
  classBoxes(item, state);
  table(shown, state.chosen);
  get("save-note").textContent = `${counted(shown)} of this picture${state.items.length > 1 ? "; JSON: of all pictures" : ""}`;
}

function renderViews(item, shown) {
  const { chosen } = state;
  const camera = get("horizon").checked ? impliedCamera(item) : null;
  const { width, projection: [[focal, , centre]] } = item.entry.camera;
  const slopes = [-centre / focal, (width - centre) / focal];
  const aspect = item.bitmap.width / item.bitmap.height;
  get("picture").style.minWidth = `${Math.min(aspect * LEAST_HEIGHT_PX, MOST_WIDTH_PX)}px`;
  state.picture = drawPicture(get("picture"), item, { shown, camera, chosen, mostHeight: 0.75 * window.innerHeight });
  state.above = drawAbove(get("above"), { shown, chosen, slopes });
  space.draw(shown, chosen);
  const words = shown.map(({ number, detection }) => `${number} ${wordsOf(detection)}`).join("; ") || "no objects";
  get("picture").setAttribute("aria-label", `${item.file.name} with boxes: ${words}`);
  get("above").setAttribute("aria-label", `From above: ${words}`);
  get("space").setAttribute("aria-label", `In 3D, turn with the arrow keys: ${words}`);
  get("horizon-note").hidden = !camera;
}

/** The slider, whose position is the square root of the score: the scores of a young network lie close to 0. */
function renderLeast(item) {
  const below = item.entry.detections.filter((one) => one.score < state.least).length;
  const slider = get("threshold");
  if (document.activeElement !== slider) slider.value = Math.sqrt(state.least);
  slider.setAttribute("aria-valuetext", scoreText(state.least));
  get("threshold-value").textContent = scoreText(state.least);
  get("below").textContent = below ? `${below} more below it; the best score here is ${scoreText(item.entry.detections[0].score)}.` : "";
}

function renderGallery() {
  const gallery = get("gallery");
  gallery.hidden = state.items.length < 2;
  if (gallery.hidden) return gallery.replaceChildren();
  gallery.replaceChildren(...state.items.map((item) => {
    const button = made("button", "", { type: "button", "aria-pressed": item === state.current });
    const canvas = made("canvas");
    button.append(canvas, made("span", `${item.file.name}: ${item.entry ? counted(rows(item)) : "waiting"}`));
    button.addEventListener("click", () => select(item));
    item.thumbnail = canvas;
    return button;
  }));
  for (const item of state.items) {
    if (item.bitmap) drawPicture(item.thumbnail, item, { shown: item.entry ? rows(item) : [], camera: null, words: false, mostHeight: 220 });
  }
}

// --- the camera ---

function renderCamera() {
  const item = state.current;
  if (!item?.entry) return;
  const { camera } = item.entry;
  const [focal] = camera.focal_px;
  get("hfov").value = hfovOf(focal, camera.width).toFixed(1);
  get("focal").value = focal.toFixed(1);
  get("pitch").value = item.pitch;
  get("roll").value = item.roll;
  const from = { assumed: "Assumed, as the picture does not say it. Distances are only as right as this is.", projection: "The camera of the example.", focal_px: "As given here.", hfov_deg: "As given here." };
  get("camera-source").textContent = from[camera.source] ?? `From the picture: ${camera.source}.`;
}

let pause;
function cameraChanged(name) {
  const item = state.current;
  if (!item || !get(name).checkValidity() || get(name).value === "") return;
  const value = Number(get(name).value);
  if (name === "hfov") {
    item.camera = { hfov_deg: value };
    get("focal").value = focalOf(value, item.entry.camera.width).toFixed(1);
  } else if (name === "focal") {
    item.camera = { focal_px: value };
    get("hfov").value = hfovOf(value, item.entry.camera.width).toFixed(1);
  } else item[name] = value;
  askSoon(item);
}

function askSoon(item) {
  renderViews(item, rows(item));
  clearTimeout(pause);
  pause = setTimeout(async () => {
    await ask(item);
    if (item === state.current) renderCamera();
  }, PAUSE_MS);
}

// --- events ---

function choose(number) {
  state.chosen = state.chosen === number ? null : number;
  renderAll();
}

/** The object at a place of the picture or the street: the one whose middle is nearest, within reach. */
function chosenAt(event, middles, reach) {
  const box = event.target.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const apart = middles.map(({ number, at }) => ({ number, away: Math.hypot(at[0] - x, at[1] - y) }));
  const nearest = apart.sort((a, b) => a.away - b.away)[0];
  if (nearest && nearest.away < reach) choose(nearest.number);
}

function listen() {
  get("files").addEventListener("change", (event) => {
    const files = [...event.target.files];
    event.target.value = ""; // so that the same picture can be chosen again
    take(files);
  });
  get("example").addEventListener("click", async () => {
    say("Rendering the example.");
    const { file, projection } = await example();
    take([file], projection);
  });
  const drop = get("drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  });
  get("threshold").addEventListener("input", (event) => {
    state.least = Number(event.target.value) ** 2;
    state.chosen = null;
    renderAll();
  });
  get("class-boxes").addEventListener("change", ({ target }) => {
    if (target.checked) state.off.delete(target.value);
    else state.off.add(target.value);
    state.chosen = null;
    renderAll();
  });
  get("horizon").addEventListener("change", renderAll);
  for (const name of ["hfov", "focal", "pitch", "roll"]) get(name).addEventListener("input", () => cameraChanged(name));
  get("camera-reset").addEventListener("click", () => {
    Object.assign(state.current, { camera: { projection: state.current.projection }, pitch: 0, roll: 0 });
    askSoon(state.current);
  });
  get("objects").addEventListener("click", (event) => {
    const number = event.target.closest("button")?.dataset.number;
    if (number) choose(Number(number));
  });
  get("picture").addEventListener("click", (event) => {
    const middles = rows(state.current).map(({ number, detection: { box_2d_px: [left, top, right, bottom] } }) => ({ number, at: state.picture.moved([(left + right) / 2, (top + bottom) / 2]) }));
    chosenAt(event, middles, 60);
  });
  get("above").addEventListener("click", (event) => {
    const middles = rows(state.current).map(({ number, detection: { bottom_centre_m: [x, , z] } }) => ({ number, at: state.above.moved([x, z]) }));
    chosenAt(event, middles, 30);
  });
  for (const button of document.querySelectorAll("[data-space]")) button.addEventListener("click", () => space.act(button.dataset.space));
  get("save-json").addEventListener("click", saveJson);
  get("save-kitti").addEventListener("click", () => {
    save(`${state.current.entry.image}.txt`, kittiText(rows(state.current).map((row) => row.detection)), "text/plain");
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", renderAll);
  let width = 0;
  new ResizeObserver(() => {
    if (width !== document.body.clientWidth) renderAll();
    width = document.body.clientWidth;
  }).observe(document.body);
}

function saveJson() {
  const done = state.items.filter((item) => item.entry);
  const images = done.map((item) => ({ ...item.entry, detections: rows(item).map((row) => row.detection).sort((a, b) => b.score - a.score) }));
  save("detections.json", JSON.stringify({ schema: done[0].schema, images }, null, 1), "application/json");
}

const mebibytes = () => (state.about.upload_bytes / 2 ** 20).toFixed(0);

async function start() {
  listen();
  state.about = await about();
  state.least = state.about.score;
  get("most").textContent = `, up to ${mebibytes()} MiB`;
  const names = Object.keys(state.about.classes);
  get("classes").textContent = `objects (${names.join(", ")})`;
  renderAll();
}

start().catch(() => complain("The server does not answer: is it still running?"));
