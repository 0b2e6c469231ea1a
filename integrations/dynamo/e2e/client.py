"""Clients that stream, and what became of their requests."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

import aiohttp

TIMEOUT_S = 300


@dataclass
class Outcome:
    """One streamed answer."""

    text: str = ""
    n_chunks: int = 0
    finish: str | None = None
    error: str | None = None
    usage: dict = field(default_factory=dict)
    engine_data: dict = field(default_factory=dict)

    def kind(self) -> str:
        """`finished`, `error`, or `lost`: an end without either."""
        if self.error:
            return "error"
        return "finished" if self.finish else "lost"


def body(content: str, **fields: object) -> dict:
    """A streamed chat that says how it was generated."""
    messages = [{"role": "user", "content": content}]
    nvext = {"extra_fields": ["engine_data"]}
    options = {"include_usage": True}
    return {"model": "target", "messages": messages, "stream": True, "stream_options": options, "nvext": nvext} | fields


async def stream(
    session: aiohttp.ClientSession, url: str, request: dict, first: asyncio.Event | None = None
) -> Outcome:
    """Reads one answer to its end; `first` is set when text has come."""
    outcome = Outcome()
    try:
        async with session.post(f"{url}/v1/chat/completions", json=request) as answer:
            if answer.status != 200:
                outcome.error = f"{answer.status} {await answer.text()}"
                return outcome
            event = ""
            async for line in answer.content:
                text = line.decode().strip()
                if text.startswith("event:"):
                    event = text[6:].strip()
                elif text.startswith(":") and event == "error":
                    outcome.error = text[1:].strip()
                elif text.startswith("data:") and text != "data: [DONE]":
                    note(outcome, json.loads(text[5:]))
                    if first and outcome.text:
                        first.set()
    except (aiohttp.ClientError, TimeoutError) as error:
        outcome.error = repr(error)
    return outcome


def note(outcome: Outcome, chunk: dict) -> None:
    if "error" in chunk:
        outcome.error = json.dumps(chunk["error"])
    for choice in chunk.get("choices", []):
        outcome.n_chunks += 1
        outcome.text += choice["delta"].get("content") or ""
        outcome.finish = choice.get("finish_reason") or outcome.finish
    outcome.usage = chunk.get("usage") or outcome.usage
    outcome.engine_data = (chunk.get("nvext") or {}).get("engine_data") or outcome.engine_data


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), connector=aiohttp.TCPConnector(limit=0), trust_env=False
    )
