"""Vocabularies in GGUF files, with the tokens that the programs make which they were trained with; runs alone with its packages."""

import io
import json
import shutil

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from paths import FIXTURES, ROOT
from texts import TEXTS

FOLDER = FIXTURES / "vocabularies"
# Any stable English text will do.
CORPUS = ROOT / "LICENSE"
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<tool>", "   "]
# No merges make it: a token only where words that are tokens stay whole.
WHOLE = "Hello"
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}"
TOOL_TEMPLATE = "{{ bos_token }}{% for tool in tools %}{{ tool.function.name }} {% endfor %}{{ messages[0].content }}"

MORE_TEXTS = [
    "Hello <tool>x</tool>   y    z",
    "camelCase HTTPServer iPhone XMLHttpRequest \u01c5ungla",
    "12345678 \u00bd \u0661\u0662\u0663 \u2167 1a2b",
    "I'M WE'LL don'T '\u017f ''s",
    "a\u0301\u0302 \u0915\u093f\u0924\u093e\u092c \u0e17\u0e35\u0e48\u0e19\u0e35\u0e48",
    "x/y/z //path\n///\n\n/ a=b+c<d>e^f~g|h`i$j",
    "\u4e00\u9fa5\u3042\u30ab\uff0c\u3002abc\uff01 \u00c9\u00c8 \u0416\u0436",
    "end of line   \n   next  \t\n\n ",
]

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CASED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SLASHES = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ANY = r"[^\r\n\p{L}\p{N}]?"


def split(expression):
    return pre_tokenizers.Split(Regex(expression), "isolated")


def words():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def byte_level():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


# As in the tokenizer.json files of models with these names.
SPLITS = {
    "gpt-2": [words()],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), words()],
    "llama-bpe": [split(rf"{CASED}|{ANY}\p{{L}}+|\p{{N}}{{1,3}}{TAIL}"), byte_level()],
    "qwen2": [split(rf"{CASED}|{ANY}\p{{L}}+|\p{{N}}{TAIL}"), byte_level()],
    "tekken": [split(rf"{ANY}{UPPER}*{LOWER}+|{ANY}{UPPER}+{LOWER}*|\p{{N}}{SLASHES}"), byte_level()],
    "gpt-4o": [
        split(rf"{ANY}{UPPER}*{LOWER}+{CASED}?|{ANY}{UPPER}+{LOWER}*{CASED}?|\p{{N}}{{1,3}}{SLASHES}"),
        byte_level(),
    ],
    "deepseek-coder": [
        split("[\r\n]"),
        split(r"\s?\p{L}+"),
        split(r"\s?\p{P}+"),
        split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
        pre_tokenizers.Digits(individual_digits=True),
        byte_level(),
    ],
    "deepseek-v3": [
        split(r"\p{N}{1,3}"),
        split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        split(
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        byte_level(),
    ],
}
KEEP_WORDS = ["llama-bpe", "tekken"]
COMPOSE = ["qwen2"]


def trained() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level vocabulary and its merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=CONTROL, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator(CORPUS.read_text().splitlines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def reference(vocab, merges, pre) -> Tokenizer:
    model = models.BPE(vocab, merges, ignore_merges=pre in KEEP_WORDS)
    tokenizer = Tokenizer(model)
    if pre in COMPOSE:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(SPLITS[pre])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in CONTROL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in USER_DEFINED])
    return tokenizer


def writer(name, model) -> gguf.GGUFWriter:
    file = gguf.GGUFWriter(FOLDER / name, "llama")
    file.add_tokenizer_model(model)
    return file


def finish(file) -> None:
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.close()


def write_byte_level(texts) -> None:
    vocab, merges = trained()
    for text in [WHOLE, *USER_DEFINED]:
        vocab[text] = len(vocab)
    tokens = sorted(vocab, key=vocab.get)
    kinds = {text: gguf.TokenType.CONTROL for text in CONTROL} | {
        text: gguf.TokenType.USER_DEFINED for text in USER_DEFINED
    }
    types = [kinds.get(text, gguf.TokenType.NORMAL) for text in tokens]
    # Rows of the embedding without a token.
    fillers = [f"[PAD{id}]" for id in range(len(tokens), len(tokens) + 5)]
    file = writer("byte_level.gguf", "gpt2")
    file.add_tokenizer_pre("gpt-2")
    file.add_token_list(tokens + fillers)
    file.add_token_types(types + [gguf.TokenType.UNUSED] * len(fillers))
    file.add_token_merges([" ".join(merge) for merge in merges])
    file.add_bos_token_id(vocab["<|im_start|>"])
    file.add_eos_token_id(vocab["<|im_end|>"])
    file.add_add_bos_token(False)
    file.add_chat_template([
        {"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": TOOL_TEMPLATE},
    ])
    finish(file)
    ids = {}
    for pre in SPLITS:
        tokenizer = reference(vocab, merges, pre)
        ids[pre] = [tokenizer.encode(text).ids for text in texts]
    write_json("byte_level.json", {"texts": texts, "ids": ids})


def write_sentence_piece(texts) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.read_text().splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kinds = []
    for id in range(pieces.vocab_size()):
        if pieces.is_unknown(id):
            kinds.append(gguf.TokenType.UNKNOWN)
        elif pieces.is_control(id):
            kinds.append(gguf.TokenType.CONTROL)
        elif pieces.is_byte(id):
            kinds.append(gguf.TokenType.BYTE)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    file = writer("sentence_piece.gguf", "llama")
    file.add_token_list([pieces.id_to_piece(id) for id in range(pieces.vocab_size())])
    file.add_token_scores([pieces.get_score(id) for id in range(pieces.vocab_size())])
    file.add_token_types(kinds)
    file.add_bos_token_id(pieces.bos_id())
    file.add_eos_token_id(pieces.eos_id())
    file.add_unk_token_id(pieces.unk_id())
    finish(file)
    cases = [{"text": text, "ids": pieces.encode(text)} for text in texts if "\0" not in text]
    write_json("sentence_piece.json", cases)


def write_json(name, value) -> None:
    (FOLDER / name).write_text(json.dumps(value, ensure_ascii=True) + "\n")


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    texts = TEXTS + MORE_TEXTS
    write_byte_level(texts)
    write_sentence_piece(texts)


if __name__ == "__main__":
    main()
