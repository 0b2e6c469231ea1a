"""LiteLLM and LangChain's OpenAI client against a running server (DSDE_URL, DSDE_KEY); run.sh starts one."""

import asyncio
import json
import os
import unittest

# The table of prices that LiteLLM ships will do; the newest one would come from the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
from langchain_core.exceptions import ContextOverflowError  # noqa: E402
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_openai import ChatOpenAI  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402

BASE = f"{os.environ['DSDE_URL']}/v1"
KEY = os.environ["DSDE_KEY"]
STORY = "Tell me a story about a dog."
HELLO = [{"role": "user", "content": STORY}]
QUESTION = "What is the weather in Paris?"


class Weather(BaseModel):
    """What is known of the weather."""

    city: str = Field(description="Name of the city.", pattern="^[A-Z][a-z]{2,8}$")
    days: int = Field(ge=1, le=9)


WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": Weather.model_json_schema()},
}


@tool(args_schema=Weather)
def get_weather(city: str, days: int) -> str:
    """The weather in a city for some days."""
    return f"Sunny in {city} for {days} days."


class LiteLlm(unittest.TestCase):
    """A provider for the API in general, and the one for vLLM, which sends the same fields to any such server."""

    providers = ("openai", "hosted_vllm")

    def complete(self, provider="openai", function=litellm.completion, **more):
        # Greedy, so that answers repeat.
        asked = {"messages": HELLO, "temperature": 0, "max_tokens": 60, "max_retries": 0, **more}
        return function(model=f"{provider}/demo", api_base=BASE, api_key=KEY, **asked)

    def text(self, **more):
        return self.complete(**more).choices[0].message.content

    def test_answers_are_the_same_whole_streamed_and_awaited(self):
        expected = self.text()
        self.assertTrue(expected)
        for provider in self.providers:
            self.assertEqual(self.text(provider=provider), expected)
            chunks = list(self.complete(provider, stream=True, stream_options={"include_usage": True}))
            whole = litellm.stream_chunk_builder(chunks, messages=HELLO)
            self.assertEqual(whole.choices[0].message.content, expected)
            self.assertEqual(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens)
            self.assertGreater(whole.usage.completion_tokens, 0)
        awaited = asyncio.run(self.complete(function=litellm.acompletion))
        self.assertEqual(awaited.choices[0].message.content, expected)

    def test_two_turns_with_a_tool(self):
        for provider in self.providers:
            with self.subTest(provider):
                asked = [{"role": "user", "content": QUESTION}]
                more = {"provider": provider, "tools": [WEATHER]}
                choice = {"type": "function", "function": {"name": "get_weather"}}
                first = self.complete(messages=asked, tool_choice=choice, **more).choices[0]
                self.assertEqual(first.finish_reason, "tool_calls")
                (call,) = first.message.tool_calls
                Weather.model_validate_json(call.function.arguments)
                chunks = list(self.complete(messages=asked, tool_choice=choice, stream=True, **more))
                streamed = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls[0]
                self.assertEqual(streamed.function, call.function)
                result = {"role": "tool", "tool_call_id": call.id, "name": "get_weather", "content": "Sunny."}
                second = self.complete(messages=[*asked, first.message, result], tool_choice="auto", **more)
                self.assertTrue(second.choices[0].message.content)

    def test_an_answer_may_be_a_model_of_pydantic(self):
        for provider in self.providers:
            Weather.model_validate_json(self.text(provider=provider, response_format=Weather))

    def test_text_completions(self):
        asked = {"api_base": BASE, "api_key": KEY, "temperature": 0, "max_tokens": 8}
        answer = litellm.text_completion(model="text-completion-openai/demo", prompt="The dog", **asked)
        self.assertTrue(answer.choices[0].text)

    def test_errors_have_their_types(self):
        with self.assertRaises(litellm.AuthenticationError):
            litellm.completion(model="openai/demo", messages=HELLO, api_base=BASE, api_key="wrong", max_retries=0)
        with self.assertRaises(litellm.NotFoundError):
            litellm.completion(model="openai/other", messages=HELLO, api_base=BASE, api_key=KEY, max_retries=0)
        for provider in self.providers:
            with self.assertRaises(litellm.BadRequestError):
                self.complete(provider, temperature=-1)
            with self.assertRaises(litellm.ContextWindowExceededError):
                self.complete(provider, messages=[{"role": "user", "content": "dog " * 20000}])


class LangChain(unittest.TestCase):
    def model(self, **more):
        asked = {"temperature": 0, "max_tokens": 60, "max_retries": 0, "timeout": 60, **more}
        return ChatOpenAI(model="demo", base_url=BASE, api_key=KEY, **asked)

    def test_answers_are_the_same_whole_streamed_batched_and_awaited(self):
        model = self.model(stream_usage=True)
        answer = model.invoke(STORY)
        self.assertTrue(answer.content)
        self.assertIn(answer.response_metadata["finish_reason"], ("stop", "length"))
        chunks = list(model.stream(STORY))
        self.assertEqual("".join(chunk.content for chunk in chunks), answer.content)
        streamed = sum(chunks[1:], chunks[0])
        self.assertEqual(streamed.usage_metadata["total_tokens"], answer.usage_metadata["total_tokens"])
        self.assertEqual([each.content for each in model.batch([STORY] * 3)], [answer.content] * 3)
        self.assertEqual(asyncio.run(model.ainvoke(STORY)).content, answer.content)

    def test_options_and_parts_pass(self):
        asked = {"seed": 3, "top_p": 0.9, "presence_penalty": 0.1, "frequency_penalty": 0.1, "stop": ["END"]}
        model = self.model(n=2, logprobs=True, top_logprobs=1, extra_body={"policy": "off"}, **asked)
        parts = [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "a story."}]
        messages = [SystemMessage("Be brief."), HumanMessage(parts, name="anna"), AIMessage("Of what?"), HumanMessage("A dog.")]
        answer = model.invoke(messages)
        self.assertTrue(answer.content)
        self.assertTrue(answer.response_metadata["logprobs"]["content"])

    def test_two_turns_with_a_tool(self):
        expected = None
        for streamed in (False, True):
            model = self.model(streaming=streamed)
            messages = [HumanMessage(QUESTION)]
            must = model.bind_tools([get_weather], tool_choice="get_weather", strict=True, parallel_tool_calls=False)
            called = must.invoke(messages)
            (call,) = called.tool_calls
            self.assertEqual((call["name"], sorted(call["args"])), ("get_weather", ["city", "days"]))
            result = get_weather.invoke(call)
            self.assertIsInstance(result, ToolMessage)
            answer = model.bind_tools([get_weather]).invoke([*messages, called, result])
            self.assertTrue(answer.content)
            expected = expected or (call["args"], answer.content)
            self.assertEqual((call["args"], answer.content), expected)
        for choice in ("any", "required", True):
            self.assertTrue(self.model().bind_tools([get_weather], tool_choice=choice).invoke(QUESTION).tool_calls)

    def test_structured_output_by_every_method(self):
        for method in ("json_schema", "function_calling"):
            got = self.model().with_structured_output(Weather, method=method).invoke(QUESTION)
            self.assertIsInstance(got, Weather, method)
            whole = self.model().with_structured_output(Weather, method=method, include_raw=True).invoke(QUESTION)
            self.assertEqual((whole["parsed"], whole["parsing_error"]), (got, None))
        strict = self.model().with_structured_output(Weather, method="json_schema", strict=True)
        self.assertIsInstance(list(strict.stream(QUESTION))[-1], Weather)
        loose = self.model(max_tokens=400).with_structured_output(None, method="json_mode", include_raw=True)
        raw = loose.invoke("Answer in JSON.")["raw"]
        if raw.response_metadata["finish_reason"] == "stop":
            self.assertIsInstance(json.loads(raw.content), dict)

    def test_errors_have_their_types(self):
        with self.assertRaises(ContextOverflowError):
            self.model().invoke("dog " * 20000)


if __name__ == "__main__":
    unittest.main()
