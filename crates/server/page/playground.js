// The conversation: composes requests, streams answers, stops them.

import { Answer } from "./answer.js";
import { Refusal, eventsOf, postJson } from "./connection.js";

const EXAMPLES = ["Tell me a story about a dog.", "Count from one to twenty.", "What is 17 plus 25?"];
/** Given where a policy needs a parameter: a length that is rarely far wrong. */
const LENGTH = 4;

const byId = (id) => document.getElementById(id);
const prompt = byId("prompt");
const conversation = byId("conversation");

/** What was said so far, as the API wants it. */
let messages = [];
let running = null;

/** Connects the form; `policies` is what the server said is possible. */
export function startPlayground(policies) {
  fillPolicies(policies);
  for (const text of EXAMPLES) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => send(text));
    byId("examples").append(button);
  }
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send(prompt.value.trim());
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("composer").requestSubmit();
    }
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("clear").addEventListener("click", clear);
}

function fillPolicies({ default: served, policies }) {
  const select = byId("policy");
  const parameters = byId("parameters");
  for (const { name } of policies) select.add(new Option(name, name));
  const show = () => {
    const policy = policies.find(({ name }) => name === select.value);
    const known = policy?.parameters ?? [];
    parameters.disabled = known.length === 0;
    parameters.value = known
      .filter((one) => one.default === null)
      .map((one) => `${one.key}=${LENGTH}`)
      .join(",");
    parameters.placeholder = known.map((one) => `${one.key}=${one.default}`).join(",") || "none";
    byId("policy-summary").textContent = policy ? `${policy.name}: ${policy.summary}` : `server default: ${served}`;
  };
  select.addEventListener("change", show);
  show();
}

function clear() {
  running?.abort();
  messages = [];
  byId("turns").replaceChildren();
  byId("empty").hidden = false;
  prompt.focus();
}

function body() {
  const system = byId("system").value.trim();
  const policy = byId("policy").value;
  const parameters = byId("parameters").value.trim();
  return {
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
    temperature: byId("temperature").valueAsNumber,
    max_tokens: byId("max-tokens").valueAsNumber,
    stream: true,
    token_origins: true,
    ...(policy && { policy: parameters ? `${policy}:${parameters}` : policy }),
  };
}

async function send(text) {
  if (running || text === "" || !byId("composer").reportValidity()) return;
  const stopping = new AbortController();
  setRunning(stopping);
  // A new conversation may begin before this answer has ended.
  const said = messages;
  said.push({ role: "user", content: text });
  const request = body();
  const answer = new Answer();
  addTurn(text, answer, request.policy);
  prompt.value = "";
  let note = "";
  try {
    note = await stream(request, answer, stopping.signal);
  } catch (error) {
    note = stopping.signal.aborted ? "stopped" : describe(error);
    // What was never answered must not be sent again.
    if (answer.text === "") said.pop();
  }
  answer.end(note);
  if (answer.text !== "") said.push({ role: "assistant", content: answer.text });
  byId("announcer").textContent = `Answer${note ? ` (${note})` : ""}: ${answer.text}`;
  setRunning(null);
}

/** Fills the answer; returns a note on how it ended, if there is something to say. */
async function stream(request, answer, signal) {
  const response = await postJson("/v1/chat/completions", request, signal);
  let reason = "";
  for await (const event of eventsOf(response)) {
    if (event.error) throw new Refusal(500, event.error.message);
    const [choice] = event.choices;
    if (!choice) continue;
    const isAtEnd = conversation.scrollTop + conversation.clientHeight > conversation.scrollHeight - 40;
    answer.add(choice.delta.content ?? "", choice.token_origins ?? []);
    if (isAtEnd) conversation.scrollTop = conversation.scrollHeight;
    reason = choice.finish_reason ?? reason;
  }
  return reason === "length" ? "cut at max tokens" : "";
}

function describe(error) {
  return error instanceof Refusal ? error.message : "the connection broke";
}

function addTurn(text, answer, policy) {
  byId("empty").hidden = true;
  const turn = document.createElement("li");
  const question = document.createElement("p");
  question.className = "question";
  question.textContent = text;
  turn.append(question, answer.tokens, answer.figures);
  if (policy) {
    const chosen = document.createElement("p");
    chosen.className = "chosen";
    chosen.textContent = `policy ${policy}`;
    question.after(chosen);
  }
  byId("turns").append(turn);
  conversation.scrollTop = conversation.scrollHeight;
}

function setRunning(stopping) {
  running = stopping;
  byId("send").disabled = stopping !== null;
  byId("stop").disabled = stopping === null;
}
