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
    """What speculation wins at both temperatures, and how far the distributions are apart."""
    text = (
        f"Simulated on the target's answers to held-out prompts, k = {result['chain_len']} drafted per verification. "
        "Runs are of consecutive tokens that the draft foresaw, not cut at k."
    )
    apart = (
        "At the positions of the answers at temperature 1. 1 - TV: the chance that one drafted token is kept; "
        "KLD(target || draft) in nats."
    )
    sections = ["## Agreement", text, speculation(result), "## Divergence", apart, divergence(result)]
    return "\n\n".join(sections)


def speculation(result: dict[str, Any]) -> str:
    head = ["", "temperature", "acceptance rate", "emitted per step", "kept 0..k", "mean run"]
    head += [f"runs {name}" if at == 0 else name for at, name in enumerate(run_names(result["run_ends"]))]
    rows = [
        [
            domain,
            temperature,
            f"{row[kind]['acceptance_rate']:.3f}",
            f"{row[kind]['emitted_per_step']:.2f}",
            " ".join(str(count) for count in row[kind]["kept"]),
            f"{row[kind]['run_mean']:.2f}",
            *(f"{100 * count / sum(row[kind]['runs']):.0f} %" for count in row[kind]["runs"]),
        ]
        for domain, row in result["agreement"].items()
        for temperature, kind in (("0", "greedy"), ("1", "sampled"))
    ]
    return table(head, rows).rstrip()


def run_names(ends: list[int]) -> list[str]:
    """Names of the bins with these upper ends, such as 0, 1, 2, 3-4 and 5+."""
    names = [str(end) if end <= low + 1 else f"{low + 1}-{end}" for low, end in zip([-1, *ends], ends, strict=False)]
    return [*names, f"{ends[-1] + 1}+"]


def divergence(result: dict[str, Any]) -> str:
    quantiles = [f"KLD {100 * share:g} %" for share in result["kld_quantiles"]]
    head = ["", "1 - TV", "KLD mean", "KLD variance", *quantiles, "positions"]
    rows = []
    for domain, row in result["agreement"].items():
        apart = row["divergence"]
        numbers = [apart["overlap_mean"], apart["kld_mean"], apart["kld_variance"], *apart["kld_quantiles"]]
        rows.append([domain, *(f"{number:.3f}" for number in numbers), str(apart["n_positions"])])
    return table(head, rows).rstrip()


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
