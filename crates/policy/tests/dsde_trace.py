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


def length(klds, held, short, decay, temperature, floor, ceiling):
    """Length after a step with `klds`, and how far the value before rounding up was from a whole number or from the floor."""
    x = exp(2 * sum(klds) / len(klds) / (temperature or 1)) - 1
    x *= variance(short, decay) / variance(held, decay)
    if x > 1:
        return floor, round(x - 1, 3)
    exact = (1 - x) * (ceiling - floor) + floor
    return ceil(exact), round(min(exact % 1, 1 - exact % 1), 3)


def paper():
    """All steps up to and with the one that reaches 30 proposed tokens calibrate; lengths stay within 2..=20 throughout."""
    k, history, accepted_max, bounds, trace = 5, [], 0, None, []
    for step, accepted in enumerate(ACCEPTED):
        klds = [kld(step, position) for position in range(k)]
        history += klds
        accepted, margin = min(accepted, k), None
        if bounds is None:
            accepted_max = max(accepted_max, accepted)
            if accepted == k:
                k = min(2 * k, 20)
            if len(history) >= 30:
                ceiling = accepted_max * (1 + sum(history) / len(history) / max(history))
                bounds = 2, min(max(round(ceiling), 2), 20)
        if bounds is not None:
            k, margin = length(klds, history[-30:], history[-10:], 0.85, TEMPERATURES[step], *bounds)
        trace.append((k, margin))
    return bounds, trace


def released():
    """The step that reaches 30 held divergences does not calibrate any more; the first length is 5 although the floor is 6."""
    k, held, accepted_max, calibration, bounds, trace = 5, [], 0, [], None, []
    for step, accepted in enumerate(ACCEPTED):
        klds = [kld(step, position) for position in range(k)]
        held = (held + klds)[-30:]
        accepted, margin = min(accepted, k), None
        if bounds is None and len(held) < 30:
            accepted_max = max(accepted_max, accepted)
            calibration += klds
            k = min(2 * k, 20) if accepted == k else max(k, 6)
        elif bounds is None:
            ceiling = accepted_max * (1 + 0.5 * sum(calibration) / len(calibration) / max(calibration))
            ceiling = min(max(round(ceiling), 6), 20)
            bounds = max(6, ceil(0.1 * ceiling)), ceiling
        if bounds is not None:
            k, margin = length(klds, held, held[-10:], 0.9, TEMPERATURES[step], *bounds)
        trace.append((k, margin))
    return bounds, trace


for bounds, trace in (paper(), released()):
    print(bounds, [k for k, _ in trace], [margin for _, margin in trace], sep="\n")
