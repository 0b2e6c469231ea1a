"""The official OpenAI client against a running server (DSDE_URL, DSDE_KEY); run.sh starts one."""

import asyncio
import json
import os
import unittest

import openai

BASE = os.environ["DSDE_URL"]
KEY = os.environ["DSDE_KEY"]
HELLO = [{"role": "user", "content": "Tell me a story about a dog."}]
# Greedy, so that answers repeat.
GREEDY = {"model": "demo", "messages": HELLO, "temperature": 0, "max_tokens": 40}


def client(key=KEY):
    return openai.OpenAI(base_url=f"{BASE}/v1", api_key=key, max_retries=0, timeout=60)


class Chat(unittest.TestCase):
    def setUp(self):
        self.client = client()

    def tearDown(self):
        self.client.close()

    def text(self, **more):
        return self.client.chat.completions.create(**{**GREEDY, **more}).choices[0].message.content

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["demo"])
        self.assertEqual(self.client.models.retrieve("demo").id, "demo")

    def test_whole_answers_repeat_and_count_tokens(self):
        answer = self.client.chat.completions.create(**GREEDY)
        self.assertTrue(answer.choices[0].message.content)
        self.assertIn(answer.choices[0].finish_reason, ("stop", "length"))
        usage = answer.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertEqual(answer.choices[0].message.content, self.text())

    def test_a_stream_is_the_whole_answer_in_pieces(self):
        stream = self.client.chat.completions.create(
            **GREEDY, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertEqual(text, self.text())
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertIsNotNone(chunks[-2].choices[0].finish_reason)
        self.assertGreater(chunks[-1].usage.completion_tokens, 0)

    def test_a_stream_may_be_left(self):
        for _ in range(3):
            with self.client.chat.completions.create(**GREEDY, stream=True) as stream:
                next(iter(stream))
        self.assertTrue(self.text())

    def test_choices_and_seeds(self):
        asked = {"n": 3, "temperature": 1.0, "seed": 11, "max_tokens": 16}
        answer = self.client.chat.completions.create(**{**GREEDY, **asked})
        self.assertEqual([choice.index for choice in answer.choices], [0, 1, 2])
        greedy = self.client.chat.completions.create(**{**GREEDY, "n": 2})
        self.assertEqual(greedy.choices[0].message.content, greedy.choices[1].message.content)

    def test_stop_strings_are_cut_off(self):
        whole = self.text()
        stop = whole[10:14]
        self.assertEqual(self.text(stop=[stop]), whole[: whole.index(stop)])

    def test_logprobs(self):
        answer = self.client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=2)
        content = answer.choices[0].logprobs.content
        self.assertEqual(len(content), answer.usage.completion_tokens)
        for entry in content:
            self.assertLessEqual(entry.logprob, 0)
            self.assertEqual(entry.top_logprobs[0].logprob, entry.logprob)

    def test_extensions_pass_through(self):
        extra = {"min_p": 0.05, "top_k": 20, "repetition_penalty": 1.1, "spec_decode_metrics": "summary"}
        extra["policy"] = "fixed:k=3"  # `auto` may find that this machine gains nothing.
        answer = self.client.chat.completions.create(**GREEDY, extra_body=extra)
        self.assertGreater(answer.metrics["speculative_decoding"]["num_draft_tokens"], 0)

    def test_a_request_may_choose_its_policy(self):
        for policy in ["off", "fixed:k=3", "dsde:cap=mean", "auto"]:
            self.assertEqual(self.text(extra_body={"policy": policy}), self.text(), policy)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.text(extra_body={"policy": "fast"})
        self.assertIn("unknown policy 'fast'", str(caught.exception))

    def test_errors_have_their_types(self):
        create = self.client.chat.completions.create
        with self.assertRaises(openai.BadRequestError) as caught:
            create(**{**GREEDY, "temperature": -1})
        self.assertIn("temperature", str(caught.exception))
        with self.assertRaises(openai.NotFoundError) as caught:
            create(**{**GREEDY, "model": "other"})
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.AuthenticationError):
            client("wrong").models.list()
        with self.assertRaises(openai.BadRequestError) as caught:
            create(**{**GREEDY, "messages": [{"role": "user", "content": "dog " * 20000}]})
        self.assertEqual(caught.exception.code, "context_length_exceeded")


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
        },
    },
}
MUST_CALL = {"type": "function", "function": {"name": "get_weather"}}


class Tools(unittest.TestCase):
    """A conversation of two turns: a call, its result, and an answer to it."""

    def setUp(self):
        self.client = client()

    def tearDown(self):
        self.client.close()

    def message(self, streamed, messages, **more):
        """Reason and message of a greedy answer, whichever way it comes."""
        asked = {"model": "demo", "temperature": 0, "max_tokens": 80, "messages": messages, "tools": [WEATHER], **more}
        if not streamed:
            choice = self.client.chat.completions.create(**asked).choices[0]
            return choice.finish_reason, choice.message
        # The client's own reading of a stream fails on an answer that is cut.
        with self.client.chat.completions.stream(**asked) as stream:
            for _ in stream:
                pass
            choice = stream.current_completion_snapshot.choices[0]
        return choice.finish_reason, choice.message

    def conversation(self, streamed, policy):
        more = {"extra_body": {"policy": policy}}
        messages = [{"role": "user", "content": "What is the weather in Paris?"}]
        reason, message = self.message(streamed, messages, tool_choice=MUST_CALL, **more)
        self.assertEqual(reason, "tool_calls")
        self.assertFalse(message.content)
        (call,) = message.tool_calls
        self.assertEqual((call.type, call.function.name), ("function", "get_weather"))
        arguments = json.loads(call.function.arguments)
        self.assertIn(arguments["city"], ("Paris", "Rome"))
        self.assertIn(arguments["days"], range(1, 10))
        function = {"name": call.function.name, "arguments": call.function.arguments}
        called = {"role": "assistant", "tool_calls": [{"id": call.id, "type": "function", "function": function}]}
        result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees."}
        reason, message = self.message(streamed, [*messages, called, result], **more)
        self.assertIn(reason, ("stop", "length"))
        self.assertTrue(message.content)
        self.assertFalse(message.tool_calls)
        return call.function.arguments, message.content

    def test_two_turns_are_the_same_under_auto_and_off_whole_and_streamed(self):
        first = self.conversation(False, "off")
        print("tool conversation:", first)
        for streamed, policy in ((True, "off"), (False, "auto"), (True, "auto")):
            self.assertEqual(self.conversation(streamed, policy), first, (streamed, policy))

    def test_tools_may_be_required_or_forbidden(self):
        hello = [{"role": "user", "content": "Hello."}]
        reason, message = self.message(False, hello, tool_choice="required", parallel_tool_calls=False)
        self.assertEqual((reason, len(message.tool_calls)), ("tool_calls", 1))
        _, message = self.message(False, hello, tool_choice="none")
        self.assertFalse(message.tool_calls)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.message(False, hello, tool_choice={"type": "function", "function": {"name": "other"}})
        self.assertEqual(caught.exception.param, "tool_choice")


class Responses(unittest.TestCase):
    """The newer route of the API: items in, items out, typed events, and nothing stored."""

    ASKED = {"model": "demo", "input": HELLO[0]["content"], "temperature": 0, "max_output_tokens": 40}
    TOOL = {"type": "function", **WEATHER["function"]}

    def setUp(self):
        self.client = client()

    def tearDown(self):
        self.client.close()

    def response(self, streamed, **more):
        """A greedy response, whichever way it comes."""
        asked = {**self.ASKED, **more}
        if not streamed:
            return self.client.responses.create(**asked)
        # `get_final_response` of the client knows complete ones only; these may end at their bound.
        return list(self.client.responses.create(**asked, stream=True))[-1].response

    def test_text_is_that_of_chat_under_auto_and_off_whole_and_streamed(self):
        expected = self.client.chat.completions.create(**GREEDY).choices[0].message.content
        for streamed in (False, True):
            for policy in ("off", "auto"):
                response = self.response(streamed, extra_body={"policy": policy}, store=True)
                self.assertEqual(response.output_text, expected, (streamed, policy))
                self.assertFalse(response.store)
                self.assertEqual(response.usage.output_tokens_details.reasoning_tokens, 0)

    def test_events_are_numbered_and_add_up(self):
        events = list(self.client.responses.create(**self.ASKED, stream=True))
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        kinds = [event.type for event in events]
        opening = ["created", "in_progress", "output_item.added", "content_part.added"]
        self.assertEqual(kinds[:4], [f"response.{kind}" for kind in opening])
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        self.assertEqual(events[-1].response.output_text, text)
        self.assertIn(kinds[-1], ("response.completed", "response.incomplete"))

    def conversation(self, streamed, policy):
        more = {"tools": [self.TOOL], "extra_body": {"policy": policy}, "max_output_tokens": 80}
        items = [{"role": "user", "content": "What is the weather in Paris?"}]
        choice = {"type": "function", "name": "get_weather"}
        response = self.response(streamed, input=items, tool_choice=choice, **more)
        (call,) = response.output
        self.assertEqual((call.type, call.name, response.status), ("function_call", "get_weather", "completed"))
        self.assertIn(json.loads(call.arguments)["city"], ("Paris", "Rome"))
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 21 degrees."}
        response = self.response(streamed, input=[*items, call.to_dict(), result], **more)
        self.assertEqual([item.type for item in response.output], ["message"])
        return call.arguments, response.output_text

    def test_two_turns_with_a_call_are_the_same_under_auto_and_off(self):
        first = self.conversation(False, "off")
        for streamed, policy in ((True, "off"), (False, "auto"), (True, "auto")):
            self.assertEqual(self.conversation(streamed, policy), first, (streamed, policy))

    def test_answers_have_a_form(self):
        city = {"type": "string", "enum": ["Paris", "Rome"]}
        schema = {"type": "object", "properties": {"city": city}, "required": ["city"], "additionalProperties": False}
        form = {"format": {"type": "json_schema", "name": "place", "schema": schema, "strict": True}}
        response = self.response(False, text=form)
        self.assertIn(json.loads(response.output_text)["city"], ("Paris", "Rome"))

    def test_nothing_is_stored(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.response(False, previous_response_id="resp_1")
        self.assertEqual(caught.exception.param, "previous_response_id")
        response = self.response(False, max_output_tokens=4)
        self.assertEqual((response.status, response.incomplete_details.reason), ("incomplete", "max_output_tokens"))


class Completions(unittest.TestCase):
    def test_text_lists_tokens_and_echo(self):
        with client() as c:
            asked = {"model": "demo", "temperature": 0, "max_tokens": 8}
            one = c.completions.create(prompt="The dog", **asked).choices[0].text
            two = c.completions.create(prompt=["The dog", "A cat"], **asked).choices
            self.assertEqual((len(two), two[0].text), (2, one))
            echoed = c.completions.create(prompt="The dog", echo=True, **asked).choices[0].text
            self.assertEqual(echoed, "The dog" + one)
            parts = [part.choices[0].text for part in c.completions.create(prompt="The dog", stream=True, **asked)]
            self.assertEqual("".join(parts), one)


class Concurrent(unittest.IsolatedAsyncioTestCase):
    async def test_many_at_once_get_what_one_alone_gets(self):
        async with openai.AsyncOpenAI(base_url=f"{BASE}/v1", api_key=KEY, max_retries=0) as c:
            alone = (await c.chat.completions.create(**GREEDY)).choices[0].message.content

            async def streamed():
                stream = await c.chat.completions.create(**GREEDY, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            self.assertEqual(await asyncio.gather(*(streamed() for _ in range(12))), [alone] * 12)


if __name__ == "__main__":
    unittest.main()
