// Requests to the server: with the key, if it wants one, and streams of events.

const STORED = "dsde-key";

let key = sessionStorage.getItem(STORED) ?? "";
let asking = null;

/** What the server answered instead of what was asked for. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Sends a request; asks for a key as often as the server wants another one. Throws a `Refusal` for errors. */
export async function ask(path, options = {}) {
  for (;;) {
    const sent = key;
    const headers = { ...options.headers, ...(sent && { authorization: `Bearer ${sent}` }) };
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.ok) return response;
    if (response.status !== 401) throw new Refusal(response.status, await messageOf(response));
    if (sent === key) await askForKey(sent !== "");
  }
}

export async function askJson(path) {
  return (await ask(path)).json();
}

export function postJson(path, body, signal) {
  const headers = { "content-type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}

/** The data of server-sent events, parsed; ends with the stream or at `[DONE]`. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event
          .split("\n")
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).trim());
        if (data.length === 0) continue;
        if (data[0] === "[DONE]") return;
        yield JSON.parse(data.join("\n"));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const dialog = document.getElementById("key-dialog");
/** Ends the waiting for a key. */
let answered = null;

/** One dialog for all requests that wait for a key. */
function askForKey(wasRefused) {
  document.getElementById("key-error").textContent = wasRefused ? "The server does not know this key." : "";
  asking ??= new Promise((resolve) => {
    answered = resolve;
    dialog.showModal();
  });
  return asking;
}

document.getElementById("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = document.getElementById("key");
  key = input.value.trim();
  input.value = "";
  sessionStorage.setItem(STORED, key);
  asking = null;
  dialog.close();
  answered();
});

// Without a key there is nothing to show, so the dialog cannot be left.
dialog.addEventListener("cancel", (event) => event.preventDefault());
dialog.addEventListener("close", () => {
  if (asking && !dialog.open) dialog.showModal();
});
