"""What must hold with the real frontend; prints what was seen, and fails if it does not.

python checks.py BINARY MODEL DRAFT OUT
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp
from client import Outcome, body, session, stream
from cluster import Cluster

N_CLIENTS = 64
# Of an interrupted answer: long enough that both workers are in the middle of all of theirs.
TOKENS = 200
SERVED_TIMEOUT_S = 60


def main() -> None:
    binary, model, draft, out = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    options = ["--model", model, "--draft", draft, "--served-model-name", "target", "--threads", "1"]
    options += ["--max-concurrency", "64", "--drain-timeout", "100"]
    checks = Checks(binary, options, out)
    checks.answers()
    assert checks.routing("kv") > checks.routing("round-robin"), "who knows where prefixes are finds more of them"
    for name, migration_limit, drain_timeout in [
        ("SIGTERM", 0, 100),
        ("SIGTERM", 0, 0),
        ("SIGTERM", 3, 0),
        ("SIGKILL", 0, 100),
        ("SIGKILL", 3, 100),
    ]:
        checks.interruption(name, migration_limit, drain_timeout)


class Checks:
    """Each check has a cluster of its own."""

    def __init__(self, binary: str, options: list[str], out: Path) -> None:
        self.binary, self.options, self.out = binary, options, out

    def cluster(self, name: str, n_workers: int, frontend: list[str]) -> Cluster:
        return Cluster(self.out / name, self.binary, self.options, n_workers, frontend)

    def answers(self) -> None:
        """Whole and streamed answers, statistics, and errors that reach the client."""
        with self.cluster("answers", 1, []) as cluster:
            asyncio.run(check_answers(cluster.url))
            metrics = cluster.workers[0].metrics()
            names = ["vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"]
            drafted, accepted = (metrics[name] for name in names)
            assert 0 < accepted <= drafted, metrics
            assert metrics["dynamo_component_total_blocks"] > 0, "the framework's own gauges are there"
            say("answers", {"drafted": drafted, "accepted": accepted})
            codes = cluster.end()
            assert codes["worker 0"] == 0, codes

    def routing(self, mode: str) -> int:
        """Prompts that begin alike, in an order that pays nobody who does not know where; tokens found in caches."""
        with self.cluster(f"routing-{mode}", 2, ["--router-mode", mode]) as cluster:
            outcomes = asyncio.run(repeated_prefixes(cluster.url))
            assert all(outcome.kind() == "finished" for outcome in outcomes), Counter(o.error for o in outcomes)
            asked = sum(outcome.usage["prompt_tokens"] for outcome in outcomes)
            cached = sum(outcome.usage["prompt_tokens_details"]["cached_tokens"] for outcome in outcomes)
            by_worker = [worker.metrics()["vllm:prompt_tokens_total"] for worker in cluster.workers]
            say(f"routing {mode}", {"prompt_tokens": asked, "cached_tokens": cached, "by_worker": by_worker})
            return cached

    def interruption(self, name: str, migration_limit: int, drain_timeout: int) -> None:
        """One of two workers is told to end, or killed, while clients stream."""
        frontend = ["--router-mode", "round-robin", "--migration-limit", str(migration_limit)]
        # Without Dynamo's grace period, so that the worker itself has to wait for what is in flight.
        os.environ["DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS"] = "0"
        self.options[-1] = str(drain_timeout)
        with self.cluster(f"{name}-{migration_limit}-{drain_timeout}", 2, frontend) as cluster:
            outcomes, later = asyncio.run(interrupted(cluster, signal.Signals[name]))
            code = cluster.workers[0].end()
        kinds = Counter(outcome.kind() for outcome in outcomes)
        errors = Counter(outcome.error for outcome in outcomes if outcome.error)
        said = {"outcomes": dict(kinds), "errors": dict(errors), "exit_code": code}
        say(f"{name}, migration limit {migration_limit}, drain timeout {drain_timeout} s", said)
        assert kinds["lost"] == 0, "every request has an end"
        assert {outcome.kind() for outcome in later} == {"finished"}, "whoever comes later is served"
        for outcome, undisturbed in zip(outcomes, later, strict=True):
            if outcome.kind() == "finished":
                assert outcome.usage["completion_tokens"] == TOKENS, outcome
                assert outcome.text == undisturbed.text, "wherever it went on, it is the same answer"
        if migration_limit > 0 or (name == "SIGTERM" and drain_timeout > 0):
            assert kinds == {"finished": N_CLIENTS}, "nothing is lost"
        else:
            assert 0 < kinds["error"] <= N_CLIENTS // 2, "only what was in flight on one worker"
        assert code == (0 if name == "SIGTERM" else -signal.SIGKILL)


async def check_answers(url: str) -> None:
    async with session() as http:
        async with http.get(f"{url}/v1/models") as answer:
            models = await answer.json()
        assert [model["id"] for model in models["data"]] == ["target"], models
        request = body("Tell me about the sea.", max_tokens=48, temperature=0)
        streamed = await stream(http, url, request)
        assert streamed.kind() == "finished" and streamed.text, streamed
        told = streamed.engine_data["metrics"]["speculative_decoding"]
        assert told["num_accepted_draft_tokens"] > 0, told
        whole = await post(http, url, request)
        assert whole["choices"][0]["message"]["content"] == streamed.text, whole
        say("one answer", {"chunks": streamed.n_chunks, "usage": streamed.usage, "speculation": told})
        likely = await post(http, url, request | {"logprobs": True, "top_logprobs": 2})
        logprobs = likely["choices"][0]["logprobs"]["content"]
        assert all(len(entry["top_logprobs"]) >= 2 and entry["logprob"] <= 0 for entry in logprobs), logprobs[:2]
        chosen = await post(http, url, request | {"guided_choice": ["apples", "pears"]})
        assert chosen["choices"][0]["message"]["content"] in ["apples", "pears"], chosen
        for wrong, expected in [({"n": 2, "temperature": 1.0}, "must be 1"), ({"guided_regex": "("}, "regex")]:
            refused = await stream(http, url, request | wrong)
            assert refused.kind() == "error" and expected in str(refused.error), refused
            say("refused", refused.error)
        text = {"model": "target", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
        async with http.post(f"{url}/v1/completions", json=text) as answer:
            completed = await answer.json()
        assert completed["usage"]["completion_tokens"] == 8, completed


async def post(http: aiohttp.ClientSession, url: str, streamed: dict) -> dict:
    """A whole answer to what would be streamed."""
    request = {key: value for key, value in streamed.items() if key != "stream_options"} | {"stream": False}
    async with http.post(f"{url}/v1/chat/completions", json=request) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def repeated_prefixes(url: str, n_prefixes: int = 8, n_rounds: int = 7) -> list[Outcome]:
    """Rounds over prefixes, one request at a time; who takes turns sends a prefix to another worker every round."""
    outcomes = []
    async with session() as http:
        for turn in range(n_rounds):
            for i in range(n_prefixes):
                about = f"This is letter number {i}. " * 30
                request = body(f"{about} What is question {turn}?", max_tokens=8, temperature=0)
                outcomes.append(await stream(http, url, request))
                # Events travel beside answers; a person reads before the next question.
                await asyncio.sleep(0.05)
            # An odd number of requests per round, so that turns shift.
            outcomes.append(await stream(http, url, body("Hello.", max_tokens=1, temperature=0)))
    return outcomes


async def interrupted(cluster: Cluster, number: signal.Signals) -> tuple[list[Outcome], list[Outcome]]:
    """Outcomes of those who streamed meanwhile, and of the same questions asked later."""
    async with session() as http:
        firsts = [asyncio.Event() for _ in range(N_CLIENTS)]

        def ask(i: int) -> asyncio.Task[Outcome]:
            return asyncio.create_task(stream(http, cluster.url, body(question(i), **FIXED), firsts[i]))

        running = [ask(i) for i in range(N_CLIENTS)]
        await asyncio.gather(*(first.wait() for first in firsts))
        assert not any(task.done() for task in running), "all are in the middle of their answer"
        cluster.workers[0].signal(number)
        start = time.monotonic()
        outcomes = await asyncio.gather(*running)
        say("until all had ended", f"{time.monotonic() - start:.1f} s")
        await until_served(http, cluster.url)
        say("until whoever came was served", f"{time.monotonic() - start:.1f} s")
        return outcomes, await asyncio.gather(*(ask(i) for i in range(N_CLIENTS)))


async def until_served(http: aiohttp.ClientSession, url: str) -> None:
    """A worker that was killed stands in the files of the discovery for a while, and the frontend may choose it."""
    deadline = time.monotonic() + SERVED_TIMEOUT_S
    while time.monotonic() < deadline:
        asked = [await stream(http, url, body("Hello.", max_tokens=1)) for _ in range(8)]
        if all(outcome.kind() == "finished" for outcome in asked):
            return
    raise AssertionError(f"requests fail {SERVED_TIMEOUT_S} s after a worker is gone")


FIXED = {"temperature": 0, "ignore_eos": True, "max_tokens": TOKENS}


def question(i: int) -> str:
    return f"Question {i}: what is the number {i} good for?"


def say(what: str, value: object) -> None:
    print(f"{what}: {value if isinstance(value, str) else json.dumps(value)}", flush=True)


if __name__ == "__main__":
    main()
