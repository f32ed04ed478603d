"""Records in the leaderboard's format, made from the pilot's figures."""

import json
from pathlib import Path

import numpy as np

PILOT = Path(__file__).parents[4] / "benchmarks/results/comparison-256.json"
PROTOCOL = """
[tasks.house_style]
queries = 256
untrained = 0.47
best = 0.95
target = 0.55
"""


def records():
    """Every run; of the prompts' rewards only their mean is the pilot's."""
    for run in json.loads(PILOT.read_text())["runs"]:
        summary, rng = run["summary"], np.random.default_rng(run["seed"])
        sides = {
            side: {
                "rewards": _spread(summary[f"reward_{side}"], rng),
                "metrics": {
                    name: [summary["metrics"][name][side]] * 6
                    for name in ("diversity/clip", "kl_to_base")
                },
                "other_rewards": {},
            }
            for side in ("before", "after")
        }
        yield {
            "schema": 1,
            "protocol": {"name": "v0", "hash": "0" * 64},
            **{name: run[name] for name in ("task", "method", "seed", "searched")},
            "kind": "measured",
            "prompts": [f"prompt {k}" for k in range(6)],
            **sides,
            "curve": [{"round": k, **point} for k, point in enumerate(run["curve"])],
            "training_rewards": run["training"],
            "spent": {
                "reward_queries": summary["images"],
                "denoiser_evaluations": summary["denoiser_evaluations"],
                "training_seconds": summary["training_seconds"],
            },
            "failed": None,
        }


def _spread(mean, rng):
    noise = rng.normal(0, 0.05, (6, 4))
    return (mean + noise - noise.mean()).tolist()


def write(folder, some=None):
    """Writes protocol and records; returns the arguments that point to them."""
    protocol = folder / "v0.toml"
    protocol.write_text(PROTOCOL)
    for record in records() if some is None else some:
        path = folder / "results/v0" / record["task"] / record["method"]
        path.mkdir(parents=True, exist_ok=True)
        (path / f"seed{record['seed']}.json").write_text(json.dumps(record))
    return ["--protocol", str(protocol), "--results", str(folder / "results")]
