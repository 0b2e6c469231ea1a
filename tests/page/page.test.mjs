// The page of `dsde serve` as a person uses it; run.sh says what is needed.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { browse, isAnswered, isLive, load, open, send, serve, violations } from "./setup.mjs";

const KEY = "test-key";
const STORY = "Tell me a story about a dog.";

let browser;
let server;
let guarded;

before(async () => {
  browser = await browse();
  server = await serve("--policy", "dsde:cap=mean");
  guarded = await serve("--api-key", KEY);
});

after(async () => {
  await browser?.close();
  server?.end();
  guarded?.end();
});

/** Opens the page, and has its complaints checked when the test ends. */
async function opened(t, url = server.url, options = {}) {
  const page = await open(browser, url, options);
  t.after(async () => {
    await page.context().close();
    assert.deepEqual(
      // The browser also tells of what a test has the server refuse.
      page.complaints.filter((text) => !/status of 40[01]/.test(text)),
      [],
    );
  });
  return page;
}

const styleOf = (locator, name) => locator.evaluate((node, of) => getComputedStyle(node)[of], name);

test("a prompt streams tokens that show their origin", async (t) => {
  const page = await opened(t);
  await isLive(page);
  assert.equal(await page.locator("#model").textContent(), "demo");
  await page.fill("#max-tokens", "120");
  await page.fill("#prompt", STORY);
  await page.press("#prompt", "Enter");
  await page.locator(".token.accepted").nth(3).waitFor();
  await isAnswered(page);
  const body = { messages: [{ role: "user", content: STORY }], temperature: 0, max_tokens: 120 };
  const headers = { "content-type": "application/json" };
  const response = await fetch(`${server.url}/v1/chat/completions`, {
    method: "POST",
    headers,
    body: JSON.stringify(body),
  });
  const {
    choices: [{ message }],
    usage,
  } = await response.json();
  const texts = await page.locator(".tokens .token:not(.special)").allTextContents();
  assert.equal(texts.join(""), message.content, "the tokens are the answer");
  assert.match(await page.locator(".figures").textContent(), new RegExp(`^${usage.completion_tokens} tokens`));
  const looks = [];
  for (const origin of ["accepted", "recovered", "bonus"]) {
    const token = page.locator(`.tokens .token.${origin}`).first();
    looks.push([await styleOf(token, "backgroundColor"), await styleOf(token, "borderBottomStyle")]);
  }
  assert.equal(new Set(looks.map(([colour]) => colour)).size, 3, `${looks}`);
  assert.deepEqual(
    looks.map(([, line]) => line),
    ["solid", "dashed", "double"],
    "not by colour alone",
  );
});

test("rejected guesses are shown on hover and on focus", async (t) => {
  const page = await opened(t);
  await send(page, STORY);
  const recovered = page.locator(".tokens .token.recovered").first();
  await recovered.hover();
  const guesses = page.locator("#tip del");
  await guesses.first().waitFor();
  const shown = await guesses.allTextContents();
  assert.ok(shown.length > 0 && shown.every((text) => text !== ""), `${shown}`);
  assert.notEqual(shown[0], await page.locator("#tip code").textContent());
  await page.keyboard.press("Escape");
  await page.locator("#tip").waitFor({ state: "hidden" });
  await recovered.focus();
  assert.deepEqual(await guesses.allTextContents(), shown);
});

test("a policy is chosen for new requests and used", async (t) => {
  const page = await opened(t);
  await isLive(page);
  assert.equal(await page.locator("#policy-served").textContent(), "dsde:cap=mean");
  await page.fill("#max-tokens", "40");
  await page.selectOption("#policy", "off");
  await send(page, STORY);
  assert.equal(await page.locator(".tokens .token:not(.plain)").count(), 0);
  assert.match(await page.locator(".figures").textContent(), /1\.00 emitted per step/);
  await page.click("#clear");
  await page.selectOption("#policy", "fixed");
  assert.equal(await page.inputValue("#parameters"), "k=4");
  await page.fill("#parameters", "k=2");
  await send(page, STORY);
  assert.ok((await page.locator(".tokens .token.accepted").count()) > 0);
  const steps = await page
    .locator(".tokens")
    .evaluate((tokens) => [...tokens.children].map((node) => node.step.tokens.length));
  assert.ok(Math.max(...steps) <= 3, "two drafted and one more");
  await page.fill("#parameters", "k=none");
  await send(page, STORY);
  assert.match(await page.locator(".figures .note").last().textContent(), /must be 1\.\.=64, got 'none'/);
});

test("plots and table follow the engine", async (t) => {
  const page = await opened(t);
  const running = load(server.url, 3, { temperature: 0.7 });
  t.after(() => running.end());
  await isLive(page);
  await page.locator("#rows tr").nth(2).waitFor();
  const chosen = load(server.url, 1, { policy: "fixed:k=2" });
  t.after(() => chosen.end());
  const policy = (name) => page.locator("#rows td:nth-last-child(2)", { hasText: name });
  await policy("fixed:k=2").waitFor();
  await policy("dsde:cap=mean").nth(2).waitFor();
  chosen.end();
  await policy("fixed:k=2").waitFor({ state: "detached" });
  const figure = (name) => page.locator("figure", { hasText: name }).locator(".now");
  await page.waitForFunction(() => Number(document.querySelector("figure .now").textContent) > 0);
  await figure("WVIR")
    .filter({ hasText: /median \d/ })
    .waitFor();
  assert.match(await figure("KLD").textContent(), /median \d/);
  await figure("Speculation lengths")
    .filter({ hasText: /mean \d.*, cap \d/ })
    .waitFor();
  const canvas = page.locator("figure canvas").first();
  const drawn = await canvas.evaluate((node) => node.toDataURL());
  const emitted = await page.locator("#rows td").nth(1).textContent();
  await page.waitForFunction((old) => document.querySelector("figure canvas").toDataURL() !== old, drawn);
  await page.waitForFunction((old) => document.querySelectorAll("#rows td")[1].textContent !== old, emitted);
  assert.match(await page.locator("#rows td").nth(10).textContent(), /^(calibrating|divergence|floor|cap)$/);
  await page.click("#pause");
  const frozen = await page.locator("#rows").textContent();
  await page.waitForResponse(() => true, { timeout: 600 }).catch(() => {});
  assert.equal(await page.locator("#rows").textContent(), frozen, "nothing moves while paused");
  running.end();
  await page.click("#pause");
  await page.locator("#no-rows").waitFor();
});

test("everything is done with the keyboard", async (t) => {
  const page = await opened(t);
  await isLive(page);
  const focused = () => page.evaluate(() => document.activeElement.id);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  assert.equal(await focused(), "prompt", "the first link leads to the prompt");
  await page.keyboard.type(STORY);
  await page.keyboard.press("Enter");
  await isAnswered(page);
  // Backwards from the prompt: the tokens are one stop.
  await page.keyboard.press("Shift+Tab");
  const label = () => page.evaluate(() => document.activeElement.getAttribute("aria-label"));
  const first = await label();
  assert.match(first, /, (accepted|recovered|bonus|plain)$/);
  assert.ok(await page.locator("#tip").isVisible());
  await page.keyboard.press("ArrowRight");
  assert.notEqual(await label(), first);
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("End");
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid", "focus is visible");
  for (let i = 0; i < 40 && (await focused()) !== "policy"; i += 1) await page.keyboard.press("Tab");
  await page.keyboard.type("off");
  assert.equal(await page.inputValue("#policy"), "off");
  for (let i = 0; i < 40 && (await focused()) !== "theme"; i += 1) await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#theme").textContent(), "Theme: light");
});

test("an answer can be stopped, and the server stops it too", async (t) => {
  const page = await opened(t);
  await isLive(page);
  // A small model would end by itself before anybody could press the button, so it goes on, and the page presses it.
  await page.route("**/v1/chat/completions", (route) =>
    route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ignore_eos: true }) }),
  );
  await page.evaluate(() => {
    const watch = new MutationObserver(() => {
      if (document.querySelectorAll(".tokens .token").length < 3) return;
      watch.disconnect();
      document.getElementById("stop").click();
    });
    watch.observe(document.body, { childList: true, subtree: true });
  });
  await page.fill("#max-tokens", "100000");
  await page.fill("#temperature", "2");
  await page.fill("#prompt", STORY);
  await page.press("#prompt", "Enter");
  await page.locator(".figures .note", { hasText: "stopped" }).waitFor();
  await page.locator("#no-rows").waitFor();
  assert.ok(await page.locator("#send").isEnabled());
});

test("a key is asked for, kept in the tab and sent", async (t) => {
  const page = await opened(t, guarded.url);
  const dialog = page.locator("#key-dialog");
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  assert.ok(await dialog.isVisible(), "without a key there is nothing to show");
  await page.fill("#key", "wrong");
  await page.keyboard.press("Enter");
  await page.locator("#key-error", { hasText: "does not know" }).waitFor();
  await page.fill("#key", KEY);
  await page.keyboard.press("Enter");
  await isLive(page);
  await send(page, "Hello.");
  assert.ok((await page.locator(".tokens .token").count()) > 0);
  const stored = await page.evaluate(() => [
    JSON.stringify(sessionStorage),
    JSON.stringify(localStorage),
    document.cookie,
  ]);
  assert.ok(stored[0].includes(KEY) && !stored[1].includes(KEY) && stored[2] === "", `${stored}`);
});

test("what a model says is text and nothing else", async (t) => {
  const page = await opened(t);
  const evil = "<img src=x onerror=alert(1)>";
  // No model says this on request, so the answer is made up.
  const token = (text, origin, rejected) => ({ id: 1, token: text, bytes: [...Buffer.from(text)], origin, rejected });
  const choice = {
    index: 0,
    delta: { content: `${evil}é` },
    finish_reason: null,
    token_origins: [
      token(evil, "recovered", [[evil, " b"]]),
      { ...token("", "accepted", []), bytes: [0xc3] },
      { ...token("", "bonus", []), bytes: [0xa9] },
    ],
  };
  const body = `data: ${JSON.stringify({ choices: [choice] })}\n\ndata: [DONE]\n\n`;
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", body }));
  await send(page, evil);
  assert.equal(await page.locator(".tokens").textContent(), `${evil}é`, "characters may spread over tokens");
  await page.locator(".token.recovered").last().hover();
  await page.locator("#tip del").first().waitFor();
  assert.equal(await page.locator("#tip del").first().textContent(), evil.replaceAll(" ", "\u2423"));
  assert.equal(await page.locator("img").count(), 0);
});

/** What the tip hides of headings, and where it leaves the window. */
const misplaced = (page) =>
  page.evaluate(() => {
    const tip = document.getElementById("tip").getBoundingClientRect();
    const hides = ({ left, top, right, bottom }) =>
      left < tip.right && tip.left < right && top < tip.bottom && tip.top < bottom;
    const headings = [...document.querySelectorAll("h1, h2, figcaption")];
    const found = headings.filter((node) => hides(node.getBoundingClientRect())).map((node) => node.textContent);
    const isInside =
      tip.width > 0 && tip.left >= 0 && tip.top >= 0 && tip.right <= innerWidth && tip.bottom <= innerHeight;
    return isInside ? found : [...found, `outside: ${JSON.stringify(tip)}`];
  });

for (const [width, height] of [
  [1280, 900],
  [360, 740],
]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`${width} pixels, ${colorScheme}: nothing is cut off and axe finds nothing`, async (t) => {
      const page = await opened(t, server.url, { viewport: { width, height }, colorScheme, hasTouch: width < 500 });
      const running = load(server.url, 2);
      t.after(() => running.end());
      await page.fill("#max-tokens", "60");
      await send(page, STORY);
      await page.locator("#rows tr").nth(1).waitFor();
      for (const token of await page.locator(".tokens .token:not(.plain)").all()) {
        await token.focus();
        assert.deepEqual(await misplaced(page), []);
      }
      const widest = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(widest <= width, `${widest} pixels are wide`);
      const [red] = (await styleOf(page.locator("body"), "backgroundColor")).match(/\d+/g).map(Number);
      assert.equal(red > 128, colorScheme === "light");
      await page.click("#pause");
      assert.deepEqual(await violations(page), []);
      // The button goes from the system's theme to light, then to dark.
      await page.click("#theme");
      await page.click("#theme");
      const [dark] = (await styleOf(page.locator("body"), "backgroundColor")).match(/\d+/g).map(Number);
      assert.ok(dark < 128);
    });
  }
}
