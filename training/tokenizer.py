"""Stage 2: a byte-level BPE with ChatML tokens, trained on `train.jsonl` or taken from a folder.

Writes tokenizer.json, tokenizer_config.json (with the chat template) and generation_config.json, as Hugging Face
folders carry them. The split pattern is the one GGUF readers know as "qwen2": words, single digits, punctuation, white
space.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from records import Record, open_lines, part_path

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (END_OF_TEXT, TURN_START, TURN_END)

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}"
    "{{ 'You may call these functions:\\n<tools>' }}"
    "{% for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}"
    "{{ '\\n</tools>\\nWrite a call as\\n<tool_call>\\n"
    '{"name": NAME, "arguments": OBJECT}'
    "\\n</tool_call><|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{% if tools and loop.first and message['role'] == 'system' %}"
    "{% elif message['role'] == 'tool' %}"
    "{{ '<|im_start|>user\\n<tool_response>\\n' + message['content'] + '\\n</tool_response><|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{% if not loop.first or message['content'] %}{{ '\\n' }}{% endif %}"
    "{{ '<tool_call>\\n"
    '{"name": "'
    "' + call['function']['name'] + '"
    '", "arguments": '
    "' + (call['function']['arguments'] | tojson) + '}\\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def rendered_prompt(prompt: str) -> str:
    """One user turn and the opening of the answer, as the chat template writes them."""
    return f"{TURN_START}user\n{prompt}{TURN_END}\n{TURN_START}assistant\n"


def stop_ids(tokenizer: Tokenizer) -> set[int]:
    """Tokens that end an answer or a text."""
    return {tokenizer.token_to_id(TURN_END), tokenizer.token_to_id(END_OF_TEXT)}


def trained(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of `vocab_size` tokens: the specials, the 256 bytes, and merges by frequency."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise SystemExit(f"the text yields only {tokenizer.get_vocab_size()} tokens, expected {vocab_size}")
    return tokenizer


def texts_of(path: Path, chars_max: int) -> Iterator[str]:
    """Prompts and texts of a corpus file until `chars_max` characters are read."""
    read = 0
    with open_lines(path) as lines:
        for line in lines:
            record = Record.from_json(line)
            yield from filter(None, (record.prompt, record.text))
            read += record.n_chars
            if read >= chars_max:
                return


def write_folder(tokenizer: Tokenizer, out: Path, context_len: int) -> None:
    """The three files of a Hugging Face folder that concern text."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_len,
        "chat_template": CHAT_TEMPLATE,
    }
    generation = {"eos_token_id": tokenizer.token_to_id(TURN_END), "pad_token_id": tokenizer.token_to_id(END_OF_TEXT)}
    for name, content in (("tokenizer_config.json", config), ("generation_config.json", generation)):
        (out / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--corpus", type=Path, help="folder with train.jsonl to train on")
    choice.add_argument("--reuse", type=Path, metavar="DIR", help="folder whose tokenizer is copied")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--context-len", type=int, default=2048)
    parser.add_argument("--chars-max", type=int, default=60_000_000, help="text read for training the merges")
    args = parser.parse_args()

    if args.reuse:
        args.out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(args.reuse / name, args.out / name)
        tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
        if missing := [special for special in SPECIALS if tokenizer.token_to_id(special) is None]:
            raise SystemExit(f"the tokenizer lacks {missing}")
    else:
        tokenizer = trained(texts_of(part_path(args.corpus, "train"), args.chars_max), args.vocab_size)
        write_folder(tokenizer, args.out, args.context_len)
    print(f"{tokenizer.get_vocab_size()} tokens in {args.out}")


if __name__ == "__main__":
    main()
