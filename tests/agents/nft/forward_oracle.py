"""Losses on the forward process and their gradients in NumPy, in double precision.

Written from the formulas of DiffusionNFT (arXiv 2509.16117) and advantage-weighted matching as the
project's notes on the methods have them, with velocities as the authors have, apart from
`agents.nft.losses` and without torch. Gradients are central differences of the loss; what the
authors take without gradient (the weights w, and everything old) is held fixed.

``python tests/agents/nft/forward_oracle.py`` prints what `forward_oracle.json` holds.
"""

import json

import numpy as np

ROWS, SHAPE = 4, (2, 2, 3)
ADVANTAGES = np.array([1.3, -0.6, 7.0, -9.0])  # the last two lie beyond the bound of 5
KINDS = ("flow", "v_prediction", "epsilon", "sample")
TIMESTEPS = {"flow": [35.0, 420.0, 777.5, 1000.0], "ddpm": [20, 400, 751, 999]}
CASES = {
    "nft": {"loss": "nft", "beta": 1.0},
    "nft, small beta": {"loss": "nft", "beta": 0.25},
    "nft, with a reference": {"loss": "nft", "beta": 1.0, "reference_coef": 0.5},
    "awm": {"loss": "awm", "awm_clip_range": 0.05},
    "awm, t": {"loss": "awm", "awm_clip_range": 0.05, "awm_time_power": 1},
    "awm, t squared, with a reference": {
        "loss": "awm",
        "awm_clip_range": 0.05,
        "awm_time_power": 2,
        "reference_coef": 0.5,
    },
}


def numbers(start, scale=1.0):
    """Fixed numbers that are no multiples of each other, [ROWS, *SHAPE]."""
    count = ROWS * int(np.prod(SHAPE))
    return (scale * np.sin(start + 1.7 * np.arange(count) ** 1.1)).reshape(ROWS, *SHAPE)


def inputs():
    """x0, its noise, and what the networks put out: trained, old, base."""
    output = numbers(3.0)
    return numbers(1.0), numbers(2.0), output, output + numbers(4.0, 0.05), numbers(5.0, 0.9)


def scales(kind):
    """a_t and b_t of x_t = a_t x0 + b_t ε, [ROWS, 1, 1, 1], and t from 0 to 1, [ROWS]."""
    block = (slice(None), None, None, None)
    if kind == "flow":
        sigma = np.array(TIMESTEPS["flow"]) / 1000
        return (1 - sigma)[block], sigma[block], sigma
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha_bar = np.cumprod(1 - betas)[TIMESTEPS["ddpm"]]
    times = np.array(TIMESTEPS["ddpm"]) / 1000
    return np.sqrt(alpha_bar)[block], np.sqrt(1 - alpha_bar)[block], times


def velocity(kind, output, x, a, b):
    """What a network's output says of the velocity: ε − x0 of a flow, a ε − b x0 else."""
    if kind in ("flow", "v_prediction"):
        return output
    noise = output if kind == "epsilon" else (x - a * output) / b
    return a * noise - b * ((x - b * noise) / a)


def clean_latent(kind, v, x, a, b):
    """x̂0 that a velocity says of x_t."""
    return x - b * v if kind == "flow" else a * x - b * v


def mean(values):
    """Over the dimensions of each row."""
    return values.reshape(ROWS, -1).mean(1)


def loss_of(kind, case):
    """The loss as a function of the trained network's output, and that output."""
    clean, noise, output, old_output, base_output = inputs()
    a, b, times = scales(kind)
    x = a * clean + b * noise
    v_old, v_base = (velocity(kind, o, x, a, b) for o in (old_output, base_output))
    v_true = noise - clean if kind == "flow" else a * noise - b * clean
    chance = np.clip(ADVANTAGES / 5, -1, 1) / 2 + 0.5
    advantages = np.clip(ADVANTAGES, -5, 5)
    weights = {}

    def error(sign, v):
        beta = case["beta"]
        mixed = beta * v + (1 - beta) * v_old if sign > 0 else (1 + beta) * v_old - beta * v
        apart = clean_latent(kind, mixed, x, a, b) - clean
        weights.setdefault(sign, np.maximum(mean(np.abs(apart)), 1e-5))  # of the first call, fixed
        return mean(apart**2) / weights[sign]

    def loss(values):
        v = velocity(kind, values, x, a, b)
        if case["loss"] == "nft":
            rows = 5 / case["beta"] * (chance * error(1, v) + (1 - chance) * error(-1, v))
        else:
            weight = times ** case.get("awm_time_power", 0)
            log_pi, log_old = (-weight * mean((one - v_true) ** 2) for one in (v, v_old))
            ratio, bound = np.exp(log_pi - log_old), case["awm_clip_range"]
            clipped = np.clip(ratio, 1 - bound, 1 + bound)
            rows = np.maximum(-advantages * ratio, -advantages * clipped)
        return (rows + case.get("reference_coef", 0) * mean((v - v_base) ** 2)).mean()

    return loss, output


def differences(loss, at, step=1e-5):
    """The gradient by central differences."""
    loss(at)  # fixes the weights
    gradient = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (loss(up) - loss(down)) / (2 * step)
    return gradient


def main():
    """Prints loss and gradient of every case, for every kind of network."""
    found = {}
    for kind in KINDS:
        for name, case in CASES.items():
            loss, output = loss_of(kind, case)
            gradient = differences(loss, output)
            found[f"{kind}: {name}"] = {
                "loss": float(f"{loss(output):.9g}"),
                "gradient": [float(f"{value:.7g}") for value in gradient.flatten()],
            }
    lines = (f"{json.dumps(name)}: {json.dumps(values)}" for name, values in found.items())
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
