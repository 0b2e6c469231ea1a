"""Expected lengths of `dsde_trace.rs`, computed from the definitions alone: whole lists, explicit powers, no rings.

Prints for every variant the length planned for each step, and how far the value before rounding up was from a whole
number, to see that the trace does not hang on the last bit. Needs Python only: `python3 dsde_trace.py`.
"""
from math import ceil, exp

BASES = [0.05, 0.08, 0.04, 0.10, 0.06, 0.12, 0.15, 0.09, 0.60, 0.20, 0.08, 0.12, 0.15, 0.10, 0.20, 0.30]
ACCEPTED = [5, 8, 4, 7, 3, 9, 20, 6, 0, 1, 2, 8, 20, 20, 3, 0]
TEMPERATURES = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0.5, 0.5, 2, 2]


def kld(step, position):
    return BASES[step] * (1 + (3 * position + step) % 4 / 4)


def variance(values, decay):
    weights = [decay ** (len(values) - 1 - i) for i in range(len(values))]
    mean = sum(w * x for w, x in zip(weights, values)) / sum(weights)
    return sum(w * (x - mean) ** 2 for w, x in zip(weights, values)) / sum(weights)


def trace(decay, headroom, floor_min, is_released):
    k, history, accepted_max, bounds, trace = max(5, floor_min), [], 0, None, []
    for step, accepted in enumerate(ACCEPTED):
        klds = [kld(step, position) for position in range(k)]
        history += klds
        accepted = min(accepted, k)
        margin = None
        if bounds is None:
            accepted_max = max(accepted_max, accepted)
            if accepted == k:
                k = min(2 * k, 20)
            if len(history) >= 30:
                ceiling = accepted_max * (1 + headroom * sum(history) / len(history) / max(history))
                ceiling = min(max(round(ceiling), floor_min), 20)
                bounds = (max(floor_min, ceil(0.1 * ceiling)) if is_released else floor_min, ceiling)
        if bounds is not None:
            temperature = TEMPERATURES[step] or 1
            x = exp(2 * sum(klds) / len(klds) / temperature) - 1
            held = history[-30:]
            short = held[-(len(held) // 3):] if is_released else history[-10:]
            x *= variance(short, decay) / variance(held, decay)
            floor, ceiling = bounds
            length = floor if x > 1 else (1 - x) * (ceiling - floor) + floor
            k = ceil(length)
            margin = round(min(length % 1, 1 - length % 1), 3) if x <= 1 else round(x - 1, 3)
        trace.append((k, margin))
    print(bounds, [k for k, _ in trace], [margin for _, margin in trace], sep="\n")


trace(0.85, 1, 2, False)
trace(0.90, 0.5, 6, True)
