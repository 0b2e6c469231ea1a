// Begins: asks the server what it is, then follows its live feed.

import { Refusal, ask, askJson, eventsOf } from "./connection.js";
import { startPlayground } from "./playground.js";
import { breakLines, showState, startPlots } from "./plots.js";
import { showSequences } from "./sequences.js";

/** Waiting time after a broken feed, milliseconds; doubles up to the largest. */
const RETRY_MS = 1000;
const RETRY_MS_MAX = 10_000;

const byId = (id) => document.getElementById(id);
let isPaused = false;

function setStatus(state, text) {
  const status = byId("status");
  if (status.textContent === text) return;
  status.dataset.state = state;
  status.textContent = text;
}

const describe = (error) => (error instanceof Refusal ? error.message : "the server cannot be reached");

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function describeServer() {
  const [{ version, model, policy }, policies] = await Promise.all([askJson("/version"), askJson("/v1/policies")]);
  byId("model").textContent = model;
  byId("policy-served").textContent = policy;
  byId("version").textContent = `DSDE ${version}`;
  startPlayground(policies);
}

async function follow() {
  for await (const state of eventsOf(await ask("/v1/live"))) {
    if (isPaused) continue;
    setStatus("live", "live");
    showState(state, showSequences(state));
  }
}

async function followForever() {
  for (let retry = RETRY_MS; ; retry = Math.min(2 * retry, RETRY_MS_MAX)) {
    const began = performance.now();
    let why = "the feed ended";
    try {
      await follow();
    } catch (error) {
      why = describe(error);
    }
    if (performance.now() - began > RETRY_MS_MAX) retry = RETRY_MS;
    setStatus("broken", `${why}; trying again`);
    breakLines();
    await wait(retry);
  }
}

byId("pause").addEventListener("click", ({ currentTarget }) => {
  isPaused = !isPaused;
  currentTarget.textContent = isPaused ? "Go on" : "Pause";
  if (isPaused) {
    setStatus("paused", "paused");
    breakLines();
  }
});

startPlots();
for (let ready = false; !ready;) {
  try {
    await describeServer();
    ready = true;
  } catch (error) {
    setStatus("broken", `${describe(error)}; trying again`);
    await wait(RETRY_MS);
  }
}
await followForever();
