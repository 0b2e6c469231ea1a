"""Texts with their tokens, and chats with their prompts, as Hugging Face tokenizers and transformers make them."""

import json
import shutil

from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from paths import EMBEDDED_TOKENIZER, FIXTURES
from texts import TEXTS

# Pieces of the SentencePiece-like tokenizer: every beginning of these; the mark stands for a space.
WORDS = ["\u2581and", "\u2581the", "\u2581\u2581\u2581\u2581", "\u2581cali", "ing", "super", "fragi", "comm", "read", "end", "|>", "<|"]

SYSTEM = {"role": "system", "content": "  Be brief. "}
USER = {"role": "user", "content": "Hi, what's <b>1 + 1</b>?\n"}
ASSISTANT = {"role": "assistant", "content": "2 \U0001f600"}
AGAIN = {"role": "user", "content": "And \"2 + 2\" & more?"}

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# In the style of Llama 3: headers, a date with a default, the system message taken out of the list.
HEADERS = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined and use_clock is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "01 Jan 2025" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Tools: " + tools | tojson }}
{%- endif %}
{{- "Today: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# In the style of Mistral: alternation is insisted on, the system message joins the first one, the end token closes answers.
INST = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception("roles must alternate user/assistant") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}
"""

# What the others leave out: string methods, namespaces, macros, loop controls, trimmed blocks, JSON, slices, defaults.
KITCHEN_SINK = """\
{% macro tag(name, text) %}
<{{ name }}>{{ text.strip().replace("&", "and") }}</{{ name }}>
{% endmacro %}
{% set ns = namespace(n=0, last='') %}
{% for message in messages %}
  {% if message.role == 'system' %}
    {% continue %}
  {% endif %}
  {% set ns.n = ns.n + 1 %}
  {% set ns.last = message.content.split(' ')[-1] %}
{{ tag(message.role.upper(), message.content) -}}
{{ message | tojson }}
{{ message.content | tojson(indent=2) }}
  {%- if message.content.startswith('And') and not loop.first %}
[{{ loop.index }}/{{ loop.length }}]
  {% endif %}
{% endfor %}
{{ [ns.n, 'x', {'a': 1.5, 'b': none, 'c': true}] | tojson }}
{{ ([ns.n, {'a': [1, 2]}]) | tojson(indent=2) }}
{{ ns.last | default('none') }} {{ missing | default('gone') }} {{ messages[::-1][0]['role'] }} {{ messages | length }}
{{ 'yes' if 'content' in messages[0] and 'tool_calls' not in messages[0] else 'no' }}
{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}
"""

TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "inst": INST, "kitchen_sink": KITCHEN_SINK}
CONVERSATIONS = [
    [USER],
    [SYSTEM, USER],
    [USER, ASSISTANT, AGAIN],
    [SYSTEM, USER, ASSISTANT, AGAIN],
]


def write_json(path, value) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n")


def tokens() -> list[dict]:
    tokenizer = Tokenizer.from_file(str(EMBEDDED_TOKENIZER))
    return [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]


def chats() -> dict:
    cases = []
    for name, template in TEMPLATES.items():
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(EMBEDDED_TOKENIZER), bos_token="<s>", eos_token="</s>", chat_template=template
        )
        for messages in CONVERSATIONS:
            rendered = {
                field: tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=flag)
                for field, flag in (("prompt", True), ("transcript", False))
            }
            cases.append({"template": name, "messages": messages} | rendered)
    return {"templates": TEMPLATES, "bos_token": "<s>", "eos_token": "</s>", "cases": cases}


def sentencepiece() -> Tokenizer:
    """A small tokenizer of Llama 2's kind; its pieces are the beginnings of a few words, not trained, so always the same."""
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["\u2581", *"abcdefghijklmnopqrstuvwxyz", *",.'|<>_"]
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    vocab = {piece: id for id, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def main() -> None:
    write_json(FIXTURES / "tokens.json", tokens())
    write_json(FIXTURES / "chats.json", chats())
    folder = FIXTURES / "sentencepiece"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer = sentencepiece()
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n")
    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids)})
    write_json(folder / "tokens.json", cases)
    print(f"{len(TEXTS)} texts, {len(TEMPLATES) * len(CONVERSATIONS)} chats, {tokenizer.get_vocab_size()} pieces")
