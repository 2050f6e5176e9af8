// The objects in 3D, seen from a point that turns around the street.

import { EDGES, FACES, ahead, dot, facing, mean, subtract } from "/page/geometry.js";
import { rangeOf } from "/page/above.js";
import { mixed, polygon, prepared, theme } from "/page/looks.js";

const START = { turn: -0.45, height: 0.42, zoom: 1 };
const CAMERA_HEIGHT_M = 1.65; // where no object shows where the street is
const LIGHT = [-0.4, -0.85, -0.35];

/** A view on a canvas that the reader can turn; `draw` is called with what is shown. */
export class Space {
  constructor(canvas) {
    this.canvas = canvas;
    this.shown = [];
    this.chosen = null;
    this.look = { ...START };
    this.pointers = new Map();
    this.listen();
  }

  draw(shown, chosen) {
    [this.shown, this.chosen] = [shown, chosen];
    this.redraw();
  }

  /** Turns or zooms in one of the ways that a button names. */
  act(name) {
    if (name === "reset") this.look = { ...START };
    if (name === "above") this.look = { turn: 0, height: 1.5, zoom: 1 };
    if (name === "in") this.look.zoom *= 1.25;
    if (name === "out") this.look.zoom /= 1.25;
    this.move(0, 0);
  }

  move(turn, height) {
    this.look.turn += turn;
    this.look.height = Math.min(Math.max(this.look.height + height, 0.04), 1.5);
    this.look.zoom = Math.min(Math.max(this.look.zoom, 0.3), 8);
    this.redraw();
  }

  listen() {
    const { canvas, pointers } = this;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const gap = this.gap();
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
      if (pointers.size > 1) this.look.zoom *= this.gap() / Math.max(gap, 1);
      if (pointers.size > 1) this.move(0, 0);
      else this.move((event.clientX - before[0]) / 160, (event.clientY - before[1]) / 160);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas) return; // else the page scrolls
      event.preventDefault();
      this.look.zoom *= Math.exp(-event.deltaY / 500);
      this.move(0, 0);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const keys = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, 0.08], ArrowDown: [0, -0.08] };
      const words = { "+": "in", "=": "in", "-": "out", Home: "reset" };
      if (keys[event.key]) this.move(...keys[event.key]);
      else if (words[event.key]) this.act(words[event.key]);
      else return;
      event.preventDefault();
    });
  }

  gap() {
    const [a, b] = [...this.pointers.values()];
    return b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 1;
  }

  redraw() {
    const { pen, width, height } = prepared(this.canvas, 1.05);
    const colours = theme();
    const range = rangeOf(this.shown);
    const heights = this.shown.map((row) => row.detection.bottom_centre_m[1]).sort((a, b) => a - b);
    const ground = heights.length ? heights[heights.length >> 1] : CAMERA_HEIGHT_M;
    const eye = this.eye(range, ground);
    const project = perspective(eye, width, height);
    drawGround(pen, project, { range, ground, colours });
    const away = (row) => Math.hypot(...subtract(mean(row.detection.corners_m), eye.at));
    for (const row of [...this.shown].sort((a, b) => away(b) - away(a))) {
      drawSolid(pen, row, project, eye.at, { isChosen: row.number === this.chosen, colours });
    }
    this.canvas.dataset.look = [this.look.turn, this.look.height, this.look.zoom].map((n) => n.toFixed(3)).join(" ");
  }

  /** Where the eye is and its axes: right, down, ahead. */
  eye(range, ground) {
    const { turn, height, zoom } = this.look;
    const target = [0, ground, range * 0.42];
    const ahead_ = [Math.sin(-turn) * Math.cos(height), Math.sin(height), Math.cos(turn) * Math.cos(height)];
    const right = [Math.cos(turn), 0, Math.sin(turn)];
    const down = [
      ahead_[1] * right[2] - ahead_[2] * right[1],
      ahead_[2] * right[0] - ahead_[0] * right[2],
      ahead_[0] * right[1] - ahead_[1] * right[0],
    ];
    const distance = (range * 0.95) / zoom;
    return { at: target.map((value, axis) => value - distance * ahead_[axis]), right, down, ahead: ahead_ };
  }
}

/** A function from points to homogeneous pixels. */
function perspective(eye, width, height) {
  const focal = 1.05 * width;
  return (point) => {
    const from = subtract(point, eye.at);
    const z = dot(from, eye.ahead);
    return [focal * dot(from, eye.right) + (z * width) / 2, focal * dot(from, eye.down) + (z * height) / 2, z];
  };
}

function drawGround(pen, project, { range, ground, colours }) {
  pen.font = "11px system-ui, sans-serif";
  for (let distance = 10; distance <= range; distance += 10) {
    const ring = Array.from({ length: 61 }, (_, i) => (Math.PI * i) / 60).map((turn) =>
      project([distance * Math.cos(turn), ground, distance * Math.sin(turn)]),
    );
    polygon(pen, ahead(ring, { near: 0.5, closed: false }), { stroke: colours.rule, closed: false });
    if (distance % (range > 60 ? 20 : 10)) continue;
    const [at] = ahead([project([distance * 0.68, ground, distance * 0.73])], { near: 0.5, closed: false });
    pen.fillStyle = colours.faint;
    if (at) pen.fillText(`${distance} m`, at[0], at[1]);
  }
  const line = [[0, ground, 0], [0, ground, range]].map(project);
  polygon(pen, ahead(line, { near: 0.5, closed: false }), { stroke: colours.rule, closed: false });
  const arrow = [[0, ground, 2.4], [1.2, ground, -1.6], [0, ground, -0.8], [-1.2, ground, -1.6]].map(project);
  polygon(pen, ahead(arrow, { near: 0.5 }), { fill: colours.ink });
}

function drawSolid(pen, row, project, eye, { isChosen, colours }) {
  const { corners_m: corners } = row.detection;
  const pixels = corners.map(project);
  const towards = facing(corners, eye);
  const centre = mean(corners);
  const edge = isChosen ? colours.ink : mixed(row.colour, colours.dark ? 0.15 : -0.45);
  FACES.forEach((face, index) => {
    if (!towards[index]) return;
    const outwards = subtract(mean(face.map((corner) => corners[corner])), centre);
    const bright = dot(outwards, LIGHT) / Math.max(Math.hypot(...outwards), 1e-9);
    const points = ahead(face.map((corner) => pixels[corner]), { near: 0.5 });
    polygon(pen, points, { fill: mixed(row.colour, bright * 0.35 - 0.12, index === 0 ? 1 : 0.86) });
  });
  const seen = ([a, b]) => FACES.some((face, index) => towards[index] && face.includes(a) && face.includes(b));
  for (const [a, b] of EDGES.filter(seen)) {
    const isFront = FACES[0].includes(a) && FACES[0].includes(b);
    const points = ahead([pixels[a], pixels[b]], { near: 0.5, closed: false });
    polygon(pen, points, { stroke: edge, width: (isChosen ? 2.4 : 1.1) + (isFront ? 1.2 : 0), closed: false });
  }
  const [at] = ahead([project([centre[0], Math.min(...corners.map((c) => c[1])) - 0.4, centre[2]])], { near: 0.5, closed: false });
  if (!at) return;
  pen.fillStyle = colours.ink;
  pen.font = "600 12px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.fillText(`${row.number}`, at[0], at[1] - 4);
  pen.textAlign = "left";
}
