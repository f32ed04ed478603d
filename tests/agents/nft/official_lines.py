"""Losses and gradients of the authors' own lines, run on the tensors of `forward_oracle`.

None of their code is here. From checkouts of the two repositories, at the commits named below, the
named lines are read, and run in double precision with our tensors under the names that they use;
gradients are torch's own. Both train flows, so there are numbers for these alone.

``python tests/agents/nft/official_lines.py DiffusionNFT advantage_weighted_matching``, with the
paths of the checkouts, prints what `official_lines.json` holds.
"""

import json
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import torch
from forward_oracle import ADVANTAGES, CASES, TIMESTEPS, inputs

NFT = {
    "repository": "https://github.com/NVlabs/DiffusionNFT",
    "commit": "24af5554898d85e93efa492f42b5e9cdf4156e9b",
    "file": "scripts/train_nft_sd3.py",
    "lines": [(864, 866), (870, 870), (908, 970)],  # t; x_t; the loss, with the reference's term
}
AWM = {
    "repository": "https://github.com/scxue/advantage_weighted_matching",
    "commit": "be5137232e33a21b449ed65a533211d0deb97ed8",
    "file": "advantage_weighted_matching/scripts/train_sd3_awm.py",
    "lines": [(210, 252), (1268, 1268), (1292, 1354)],  # log π; x_t; the loss
}
WEIGHTINGS = ("Uniform", "t", "t**2")
"""What AWM calls the powers of t."""


def parts(source, checkout):
    """The named lines, each range at the margin, ready to run."""
    shown = ["git", "-C", checkout, "show", f"{source['commit']}:{source['file']}"]
    lines = subprocess.run(shown, check=True, capture_output=True, text=True).stdout.splitlines()
    ranges = ("\n".join(lines[first - 1 : last]) for first, last in source["lines"])
    return [compile(textwrap.dedent(part), source["file"], "exec") for part in ranges]


def tensors():
    """x0, its noise, the outputs of trained, old and base network, advantages and timesteps."""
    found = [torch.tensor(values, dtype=torch.float64) for values in inputs()]
    found[2].requires_grad_(True)
    times = torch.tensor(TIMESTEPS["flow"], dtype=torch.float64)
    return *found, torch.tensor(ADVANTAGES), times


def nft(case, lines):
    """DiffusionNFT's loss, and the trained network's output."""
    clean, noise, output, old, base, advantages, times = tensors()
    names = {
        "torch": torch,
        "config": SimpleNamespace(
            beta=case["beta"],
            train=SimpleNamespace(adv_clip_max=5, beta=case.get("reference_coef", 0.0)),
        ),
        "train_sample_batch": {"timesteps": times[:, None], "advantages": advantages[:, None]},
        "j_idx": 0,
        "x0": clean,
        "noise": noise,
        "forward_prediction": output,
        "old_prediction": old,
        "ref_forward_prediction": base,
    }
    for part in lines:
        exec(part, names)
    return names["loss"], output


def awm(case, lines):
    """AWM's loss, and the trained network's output."""
    clean, noise, output, old, base, advantages, times = tensors()
    definition, noised, loss = lines
    train = {
        "cfg": False,
        "adv_clip_max": 5,
        "advantage_max": None,
        "loss_type": "exp_first",
        "train_timesteps": 1,
        "clip_range": case["awm_clip_range"],
        "beta": case.get("reference_coef", 0.0),
        "ema_beta": 0.0,
        "kl_weight": "Uniform",
    }
    sample = {"clean_latents": clean, "train_random_noise": noise}
    names = {
        "torch": torch,
        "config": SimpleNamespace(train=SimpleNamespace(**train)),
        "accelerator": SimpleNamespace(is_main_process=False),
        "timesteps": times.view(-1, 1, 1, 1) / 1000,
        "sample": sample,
    }
    exec(definition, names)
    exec(noised, names)

    def log_pi(prediction):
        """log π and the prediction, with an axis for the one timestep of each image."""
        rest = (names["timesteps"], None, None, names["config"], names["noised_latents"])
        found = names["compute_log_prob_awm"](
            lambda **_: (prediction,),
            *(None, None, *rest, clean, noise),
            weighting=WEIGHTINGS[case.get("awm_time_power", 0)],
        )
        return [value[None] for value in found]

    sample["log_probs"], sample["model_output"], sample["std_dev_t"] = log_pi(output)
    sample["old_log_probs"], *_ = log_pi(old)
    _, sample["model_output_ref"], _ = log_pi(base)
    sample["advantages"] = advantages[:, None]
    exec(loss, names)
    return names["loss"], output


def main(nft_checkout, awm_checkout):
    """Prints loss and gradient of every case, and where the lines are."""
    sources = {"nft": (NFT, nft, nft_checkout), "awm": (AWM, awm, awm_checkout)}
    found = {}
    for name, case in CASES.items():
        source, run, checkout = sources[case["loss"]]
        loss, output = run(case, parts(source, checkout))
        (gradient,) = torch.autograd.grad(loss, output)
        found[f"flow: {name}"] = {
            "loss": float(f"{loss.item():.9g}"),
            "gradient": [float(f"{value:.9g}") for value in gradient.flatten().tolist()],
        }
    lines = [f'"sources": {json.dumps([NFT, AWM])}']
    lines += [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in found.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main(*sys.argv[1:])
