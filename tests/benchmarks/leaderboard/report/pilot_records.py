"""Records in the leaderboard's format, made from the pilot's figures."""

import json
import re
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.leaderboard.protocol import NEWEST, load_protocol

SEEDS = list(range(10))
PILOT = Path(__file__).parents[4] / "benchmarks/results/comparison-256.json"
HOUSE = "[tasks.house_style]"


def protocol_text():
    """The published protocol with one task, and seeds that the pilot has."""
    text = NEWEST.read_text()
    start, end = text.index("[tasks.jpeg_compressibility]"), text.index("# No seed of the search")
    task = text[text.index(HOUSE) : start]
    fixed = re.sub(r"^(target|record|compared_at|best|untrained) = .*\n", "", task, flags=re.M)
    fixed += "untrained = 0.47\nbest = 0.95\ntarget = 0.55\n\n"
    seeds = re.sub(r"^seeds = \[10.*", f"seeds = {SEEDS}", text[end:], flags=re.M)
    return text[: text.index(HOUSE)] + fixed + seeds


def protocol(folder):
    """The same, read."""
    path = folder / "v0.toml"
    path.write_text(protocol_text())
    return load_protocol("standard", path)


@cache
def _hash():
    with tempfile.TemporaryDirectory() as folder:
        return protocol(Path(folder)).task("house_style").sha256


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
            "protocol": {"name": "v0", "hash": _hash()},
            **{name: run[name] for name in ("task", "method", "seed", "searched")},
            "kind": "measured",
            "prompts": [f"prompt {k}" for k in range(6)],
            **sides,
            "curve": [_point(k, point) for k, point in enumerate(run["curve"])],
            "training_rewards": run["training"],
            "spent": {
                "reward_queries": int(summary["images"]),
                "denoiser_evaluations": int(summary["denoiser_evaluations"]),
                "training_seconds": summary["training_seconds"],
            },
            "failed": None,
            "options": {},
            "versions": {},
            "commit": None,
            "clean": False,
            "machine": {"device": "cpu", "threads": 1},
            "date": "2026-11-01",
        }


def _point(number, point):
    counts = {name: int(point[name]) for name in ("reward_queries", "denoiser_evaluations")}
    return {"round": number, **point, **counts}


def _spread(mean, rng):
    noise = rng.normal(0, 0.05, (6, 4))
    return (mean + noise - noise.mean()).tolist()


def write(folder, some=None):
    """Writes protocol and records; returns the arguments that point to them."""
    protocol(folder)
    for record in records() if some is None else some:
        path = folder / "results/v0" / record["task"] / record["method"]
        path.mkdir(parents=True, exist_ok=True)
        (path / f"seed{record['seed']}.json").write_text(json.dumps(record))
    return ["--protocol", str(folder / "v0.toml"), "--results", str(folder / "results")]
