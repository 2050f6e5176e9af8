// Points of the level camera frame (x right, y down, z ahead, metres) and the pixels of the picture.

const NEAR_M = 0.1;
export const EDGES = [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]];
export const FACES = [[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [0, 3, 2, 1], [4, 5, 6, 7]]; // the front first

const radians = (degrees) => (degrees * Math.PI) / 180;
export const focalOf = (hfovDeg, width) => width / 2 / Math.tan(radians(hfovDeg) / 2);
export const hfovOf = (focalPx, width) => (2 * Math.atan(width / 2 / focalPx) * 180) / Math.PI;

/** 3 x 3: from the frame of a camera that looks down and is turned clockwise to the level frame. */
export function levelRotation(pitchDeg, rollDeg) {
  const [cp, sp] = [Math.cos(radians(pitchDeg)), Math.sin(radians(pitchDeg))];
  const [cr, sr] = [Math.cos(radians(rollDeg)), Math.sin(radians(rollDeg))];
  return [[cr, -sr, 0], [cp * sr, cp * cr, sp], [-sp * sr, -sp * cr, cp]];
}

/** Homogeneous pixels of a point. camera: { projection, rotation_to_level? }; infinite: a direction instead. */
export function homogeneous(camera, point, infinite = false) {
  const R = camera.rotation_to_level;
  const own = R ? [0, 1, 2].map((i) => R[0][i] * point[0] + R[1][i] * point[1] + R[2][i] * point[2]) : point;
  return camera.projection.map((row) => row[0] * own[0] + row[1] * own[1] + row[2] * own[2] + (infinite ? 0 : row[3]));
}

/** The part of a polygon (or, open, of a line) ahead of the camera, as pixels. */
export function ahead(points, { near = NEAR_M, closed = true } = {}) {
  const kept = [];
  points.forEach((point, index) => {
    if (point[2] >= near) kept.push(point);
    const next = points[(index + 1) % points.length];
    if ((closed || index + 1 < points.length) && point[2] >= near !== next[2] >= near) {
      const share = (near - point[2]) / (next[2] - point[2]);
      kept.push(point.map((value, axis) => value + share * (next[axis] - value)));
    }
  });
  return kept.map(([u, v, w]) => [u / w, v / w]);
}

/** The two ends of the horizon, in pixels; fewer where it is behind the camera. */
export function horizon(camera) {
  const ends = [[-4, 0, 1], [4, 0, 1]].map((direction) => homogeneous(camera, direction, true));
  return ahead(ends, { near: 0.02, closed: false });
}

export function subtract(a, b) {
  return [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
}

export function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/** Which faces of a box (8 corners) look towards the eye. */
export function facing(corners, eye) {
  const centre = mean(corners);
  return FACES.map((face) => {
    const middle = mean(face.map((corner) => corners[corner]));
    return dot(subtract(middle, centre), subtract(eye, middle)) > 0;
  });
}

export function mean(points) {
  return [0, 1, 2].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
}
