// Colours of the page for the canvases, and small things of drawing.

/** The colours of the present theme. */
export function theme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return { ink: colour("ink"), faint: colour("faint"), rule: colour("rule"), paper: colour("paper"), dark };
}

/** A context whose units are CSS pixels, on a canvas as sharp as the screen; cleared. */
export function prepared(canvas, aspect, mostHeight = Infinity) {
  const width = Math.max(canvas.clientWidth, 1);
  const height = Math.min(width / aspect, mostHeight);
  const sharp = Math.min(window.devicePixelRatio || 1, 3);
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(height * sharp);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.setTransform(sharp, 0, 0, sharp, 0, 0);
  return { pen, width, height };
}

/** A colour (#rrggbb) mixed with black (share < 0) or white, as rgba. */
export function mixed(hex, share, opacity = 1) {
  const target = share < 0 ? 0 : 255;
  const parts = [1, 3, 5].map((at) => {
    const value = parseInt(hex.slice(at, at + 2), 16);
    return Math.round(value + Math.abs(share) * (target - value));
  });
  return `rgba(${parts.join(",")},${opacity})`;
}

export function polygon(pen, points, { fill, stroke, width = 1, closed = true, dash = [] } = {}) {
  if (points.length < 2) return;
  pen.beginPath();
  points.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  if (closed) pen.closePath();
  if (fill) {
    pen.fillStyle = fill;
    pen.fill();
  }
  if (stroke) {
    pen.lineJoin = pen.lineCap = "round";
    pen.setLineDash(dash);
    pen.strokeStyle = stroke;
    pen.lineWidth = width;
    pen.stroke();
    pen.setLineDash([]);
  }
}

/** Writes words on chips that do not cover each other: a later one moves up, or is left out. */
export function labels(pen, width, height, size = 12) {
  const taken = [];
  pen.font = `600 ${size}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  return (text, x, y, { chip, ink }) => {
    const wide = pen.measureText(text).width + 8;
    const high = size + 6;
    const left = Math.min(Math.max(x, 0), width - wide);
    let bottom = Math.min(Math.max(y, high), height);
    for (let tries = 0; tries < 4 && bottom >= high; tries += 1, bottom -= high + 1) {
      const box = [left, bottom - high, left + wide, bottom];
      if (taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      if (chip) {
        pen.fillStyle = chip;
        pen.beginPath();
        pen.roundRect(left, bottom - high, wide, high, 3);
        pen.fill();
      }
      pen.fillStyle = ink;
      pen.fillText(text, left + 4, bottom - high / 2 + 0.5);
      return;
    }
  };
}
