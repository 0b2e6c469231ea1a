// A server, a browser, and load; what the tests of the page share.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(`${process.env.DSDE_PAGE_MODULES}/`);
const { chromium } = require("playwright-core");
const AXE = require.resolve("axe-core/axe.min.js");

/** Nothing of the browser's own talks to the network. */
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** `dsde serve` with more options, on one core so that a browser has another; resolves once it accepts connections. */
export async function serve(...options) {
  const child = spawn(process.env.DSDE, ["serve", "--port", "0", "--threads", "1", ...options], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const said = [];
  for await (const line of createInterface({ input: child.stderr })) {
    said.push(line);
    if (line.startsWith("ready: ")) {
      child.stderr.resume();
      return { url: line.slice("ready: ".length), end: () => child.kill("SIGKILL") };
    }
  }
  throw new Error(`the server did not start:\n${said.join("\n")}`);
}

export const browse = () => chromium.launch({ executablePath: process.env.DSDE_CHROMIUM, args: FLAGS });

/**
 * A page of a fresh profile. What it complains about, and requests that leave the server, are collected in `page.complaints`.
 */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  await context.addInitScript({ path: AXE });
  const page = await context.newPage();
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(String(error)));
  page.on("console", (message) => message.type() === "error" && page.complaints.push(message.text()));
  page.on("request", (request) => request.url().startsWith(url) || page.complaints.push(`asked ${request.url()}`));
  page.setDefaultTimeout(60_000);
  await page.goto(url);
  return page;
}

export const isLive = (page) => page.locator('#status[data-state="live"]').waitFor();

/** Sends a prompt and waits for the end of its answer. */
export async function send(page, text) {
  await page.fill("#prompt", text);
  await page.press("#prompt", "Enter");
  await isAnswered(page);
}

export const isAnswered = (page) => page.locator('.turns li:last-child .figures[data-over="true"]').waitFor();

/** Keeps `n` answers running, each as long as the context, until `end` is called. */
export function load(url, n, more = {}) {
  const stopping = new AbortController();
  for (let i = 0; i < n; i += 1) keepAsking(url, { prompt: `Story number ${i}.`, ...more }, stopping.signal);
  return { end: () => stopping.abort() };
}

async function keepAsking(url, body, signal) {
  const headers = { "content-type": "application/json" };
  const endless = { max_tokens: 1500, ignore_eos: true, stream: true, ...body };
  while (!signal.aborted) {
    try {
      const response = await fetch(`${url}/v1/completions`, {
        method: "POST",
        headers,
        signal,
        body: JSON.stringify(endless),
      });
      if (!response.ok) throw new Error(await response.text());
      await response.body.pipeTo(new WritableStream());
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }
}

/** What axe finds against WCAG 2.2 A and AA and its own good practice, as lines. */
export async function violations(page) {
  const { violations: found } = await page.evaluate(() => globalThis.axe.run(document));
  return found.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id} at ${target}: ${failureSummary}`),
  );
}
