"""The model card as Markdown, from what evaluate.py measured."""

from typing import Any


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def rendered(result: dict[str, Any]) -> str:
    """All sections; those without data are left out."""
    sections = ["# Model card: target and draft", models(result), heldout(result), agreement(result)]
    if "corpus" in result:
        sections.append(corpus(result["corpus"]))
    return "\n\n".join([*sections, samples(result["samples"])]).rstrip() + "\n"


def models(result: dict[str, Any]) -> str:
    rows = [["parameters", *(str(result[name]["parameters"]) for name in ("target", "draft"))]]
    for key in ("n_layers", "hidden_size", "n_heads", "n_kv_heads", "head_dim", "ff_size", "context_len", "vocab_size"):
        rows.append([key, *(str(result[name]["shape"][key]) for name in ("target", "draft"))])
    for key in ("step", "n_tokens", "seconds"):
        trained = [(result[name].get("trained") or {}).get(key) for name in ("target", "draft")]
        if any(value is not None for value in trained):
            rows.append([f"training: {key}", *(f"{value:.0f}" if value is not None else "" for value in trained)])
    return table(["", "target", "draft"], rows).rstrip()


def heldout(result: dict[str, Any]) -> str:
    losses = {name: result[name]["heldout_nats_per_token"] for name in ("target", "draft")}
    rows = [[domain, *(f"{losses[name][domain]:.3f}" for name in ("target", "draft"))] for domain in losses["target"]]
    return (
        "## Held-out loss\n\nNats per token of held-out responses and texts.\n\n"
        + table(["", "target", "draft"], rows).rstrip()
    )


def agreement(result: dict[str, Any]) -> str:
    head = ["", "acceptance rate", "emitted per step", "kept 0..k", "1 - TV", "KLD mean", "KLD variance", "positions"]
    rows = [
        [
            domain,
            f"{row['acceptance_rate']:.3f}",
            f"{row['emitted_per_step']:.2f}",
            " ".join(str(count) for count in row["runs"]),
            f"{row['overlap_mean']:.3f}",
            f"{row['kld_mean']:.3f}",
            f"{row['kld_variance']:.3f}",
            str(row["n_positions"]),
        ]
        for domain, row in result["agreement"].items()
    ]
    text = (
        f"Simulated on the target's answers to held-out prompts. Acceptance rate, emitted per step and the counts "
        f"of kept lengths: temperature 0, k = {result['chain_len']} drafted per verification. 1 - TV (expected "
        f"acceptance of one token) and KLD(target || draft) in nats: temperature 1."
    )
    return f"## Agreement\n\n{text}\n\n" + table(head, rows).rstrip()


def corpus(manifest: dict[str, Any]) -> str:
    rows = [
        [part, kind[:-1], name, str(count["records"]), str(count["characters"])]
        for part in ("train", "heldout")
        for kind in ("domains", "licences", "sources")
        for name, count in manifest[part][kind].items()
    ]
    return "## Text\n\n" + table(["part", "by", "", "records", "characters"], rows).rstrip()


def samples(by_domain: dict[str, list[dict[str, str]]]) -> str:
    blocks = ["## Samples\n\nGreedy answers of the target to held-out prompts, uncorrected."]
    for domain, pairs in by_domain.items():
        for pair in pairs:
            quoted = "\n".join("    " + line for line in (pair["prompt"] + "\n-> " + pair["answer"]).splitlines())
            blocks.append(f"{domain}:\n\n{quoted}")
    return "\n\n".join(blocks)
