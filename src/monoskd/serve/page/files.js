// What the reader takes along.

/** Lines of KITTI's result format. */
export function kittiText(detections) {
  return detections
    .map((one) => {
      const numbers = [
        one.alpha_rad, ...one.box_2d_px, ...one.height_width_length_m, ...one.bottom_centre_m, one.yaw_rad, one.score,
      ];
      return [one.class, -1, -1, ...numbers.map((number) => number.toFixed(6))].join(" ") + "\n";
    })
    .join("");
}

export function save(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
