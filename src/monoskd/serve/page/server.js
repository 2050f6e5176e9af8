// What the page asks the server. Everything goes to the host that the page is from.

const ASSUMED_HFOV_DEG = 60; // where neither the reader nor the picture says the camera
const POLL_MS = 700;
const ATTEMPTS = 20; // where the server is full

export async function about() {
  return (await fetch("/about")).json();
}

/** The example as a File, and the projection of its camera. */
export async function example() {
  const [picture, camera] = await Promise.all([fetch("/example.jpg"), fetch("/example.json")]);
  const blob = await picture.blob();
  return { file: new File([blob], "example.jpg", { type: "image/jpeg" }), projection: (await camera.json()).projection };
}

/** The entry of one picture in the document of `POST /predict`. say: told where the request stands. Throws one line. */
export async function predict(file, camera, { say, signal }) {
  for (let attempt = 1; ; attempt += 1) {
    const ticket = [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16)).join("");
    const polling = setInterval(() => tellPlace(ticket, say), POLL_MS);
    try {
      const response = await fetch("/predict", { method: "POST", body: body(file, camera, ticket), signal });
      const answer = await response.json();
      if (response.ok) return answer;
      if (response.status !== 503 || attempt === ATTEMPTS) throw new Error(answer.detail);
      const seconds = Number(response.headers.get("Retry-After")) || 5;
      say(`The server is busy. Trying again in ${seconds} s.`);
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    } finally {
      clearInterval(polling);
    }
  }
}

function body(file, camera, ticket) {
  const form = new FormData();
  form.set("picture", file);
  for (const [name, value] of Object.entries({ assumed_hfov_deg: ASSUMED_HFOV_DEG, ...camera, score: 0, ticket })) {
    if (value !== undefined) form.set(name, Array.isArray(value) ? value.join(" ") : value);
  }
  return form;
}

async function tellPlace(ticket, say) {
  const response = await fetch(`/line/${ticket}`).catch(() => null);
  if (!response?.ok) return;
  const { position } = await response.json();
  say(position === 0 ? "Looking at the picture." : `Waiting: number ${position} in the line.`);
}
