"""Requests of coding agents against a running server (DSDE_URL, DSDE_KEY); run.sh starts one.

`agents.jsonl` has the fields and the structure of what the named versions sent to a recorder, in words of our own.
"""

import json
import os
import pathlib
import unittest
import urllib.request

BASE = os.environ["DSDE_URL"]
KEY = os.environ["DSDE_KEY"]
RECORDED = pathlib.Path(__file__).with_name("agents.jsonl").read_text().splitlines()


def answer(path, body):
    """Type and text of the answer; whatever is not 200 raises."""
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    request = urllib.request.Request(BASE + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.headers["content-type"], response.read().decode()


class Agents(unittest.TestCase):
    def test_every_recorded_request_is_answered(self):
        checks = {"/v1/chat/completions": (self.check_chunks, self.check_completion)}
        for line in RECORDED:
            recorded = json.loads(line)
            with self.subTest(agent=recorded["agent"], what=recorded["what"]):
                # Greedy, so that answers repeat.
                body = {"temperature": 0, **recorded["body"]}
                check_events, check_whole = checks[recorded["path"]]
                kind, text = answer(recorded["path"], body)
                if body.get("stream"):
                    self.assertEqual(kind, "text/event-stream")
                    check_events(text, body)
                else:
                    self.assertEqual(kind, "application/json")
                    check_whole(json.loads(text))

    def test_calls_have_the_schemas_of_agents(self):
        bodies = [json.loads(line)["body"] for line in RECORDED]
        body = next(body for body in bodies if body.get("tools"))
        for tool in body["tools"]:
            function = tool["function"]
            with self.subTest(function["name"]):
                choice = {"type": "function", "function": {"name": function["name"]}}
                more = {"tool_choice": choice, "temperature": 0, "max_tokens": 400, "stream": False}
                more["stream_options"] = None
                _, text = answer("/v1/chat/completions", {**body, **more})
                (call,) = json.loads(text)["choices"][0]["message"]["tool_calls"]
                self.assertEqual(call["function"]["name"], function["name"])
                arguments = json.loads(call["function"]["arguments"])
                self.assertLessEqual(set(function["parameters"]["required"]), set(arguments))

    def check_chunks(self, text, body):
        data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        self.assertEqual(data.pop(), "[DONE]")
        chunks = [json.loads(event) for event in data]
        self.assertEqual({chunk["object"] for chunk in chunks}, {"chat.completion.chunk"})
        if body.get("stream_options"):
            self.check_usage(chunks.pop()["usage"])
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        self.assertTrue("".join(choice["delta"].get("content") or "" for choice in choices))
        self.assertIn(choices[-1]["finish_reason"], ("stop", "length"))

    def check_completion(self, whole):
        self.assertEqual(whole["object"], "chat.completion")
        self.check_usage(whole["usage"])
        (choice,) = whole["choices"]
        self.assertTrue(choice["message"]["content"])
        self.assertIn(choice["finish_reason"], ("stop", "length"))

    def check_usage(self, usage):
        self.assertGreater(usage["completion_tokens"], 0)
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])


if __name__ == "__main__":
    unittest.main()
