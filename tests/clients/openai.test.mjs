// The official OpenAI client for Node against a running server (DSDE_URL, DSDE_KEY); run.sh starts one.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.DSDE_URL}/v1`, apiKey: process.env.DSDE_KEY, maxRetries: 0 });
const HELLO = {
  model: "demo",
  messages: [{ role: "user", content: "Tell me a story about a dog." }],
  temperature: 0,
  max_tokens: 40,
};

const text = async (more = {}) =>
  (await client.chat.completions.create({ ...HELLO, ...more })).choices[0].message.content;

test("a stream is the whole answer in pieces", async () => {
  const stream = await client.chat.completions.create({
    ...HELLO,
    stream: true,
    stream_options: { include_usage: true },
  });
  let streamed = "";
  let usage = null;
  for await (const chunk of stream) {
    streamed += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(streamed, await text());
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
});

test("every policy gives the same text", async () => {
  const answer = await fetch(`${process.env.DSDE_URL}/v1/policies`, {
    headers: { "x-api-key": process.env.DSDE_KEY },
  });
  const { policies } = await answer.json();
  const expected = await text({ policy: "off" });
  for (const { name, parameters } of policies) {
    const required = parameters.filter((parameter) => parameter.default === null);
    const policy = [name, required.map((parameter) => `${parameter.key}=3`).join(",")].filter(Boolean).join(":");
    assert.equal(await text({ policy }), expected, policy);
  }
});

test("a stream may be aborted, also many at once", async () => {
  const leave = async () => {
    const stream = await client.chat.completions.create({ ...HELLO, max_tokens: 400, stream: true });
    for await (const _ of stream) {
      stream.controller.abort();
    }
  };
  await Promise.all(Array.from({ length: 8 }, leave));
  assert.ok(await text());
});

test("errors have their types and say what was expected", async () => {
  await assert.rejects(text({ temperature: -1 }), OpenAI.BadRequestError);
  await assert.rejects(text({ policy: "fast" }), /unknown policy 'fast', expected one of: auto, off/);
  await assert.rejects(text({ model: "other" }), OpenAI.NotFoundError);
  const stranger = new OpenAI({ baseURL: client.baseURL, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("text completions and log-probabilities", async () => {
  const one = await client.completions.create({ model: "demo", prompt: "The dog", temperature: 0, max_tokens: 8 });
  const answer = await client.chat.completions.create({ ...HELLO, logprobs: true, top_logprobs: 2 });
  assert.ok(one.choices[0].text);
  assert.equal(answer.choices[0].logprobs.content.length, answer.usage.completion_tokens);
});
