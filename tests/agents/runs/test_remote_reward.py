"""Runs whose reward another process computes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reward_servers import Spoiler, Told, served, started
from safetensors.torch import load_file

from agents import evaluate, sample, train
from diffusion_gym.errors import InvalidInputError, RewardServerError
from diffusion_gym.rewards import make_reward

SMALL = (
    *("--images", "8", "--num-envs", "4", "--samples-per-prompt", "2", "--eval-prompts", "2"),
    *("--num-inference-steps", "3", "--eval-samples", "1", "--prompts", "emoji-objects"),
    *("--shaping", "sparse", "--device", "cpu"),
)


def trained(output: Path, *options: str) -> Path:
    assert train.main([*SMALL, "--output", str(output), *options]) == 0
    return output


def metrics(run: Path) -> list[dict[str, str]]:
    """All but times."""
    with (run / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def read(run: Path, file: str) -> Any:
    return json.loads((run / file).read_text())


def assert_same_weights(one: Path, other: Path) -> None:
    files = sorted((one / "exported").rglob("*.safetensors"))
    assert files
    for file in files:
        mine, theirs = load_file(file), load_file(other / file.relative_to(one))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
def test_a_served_reward_trains_as_the_reward_itself(tmp_path: Path) -> None:
    here = trained(tmp_path / "here", "--reward", "house_style")
    with started("--reward", "house_style", "--port", "0") as (url, _):
        options = json.dumps({"url": url})
        there = trained(tmp_path / "there", "--reward", "remote", "--reward-options", options)
        assert metrics(here) == metrics(there)
        assert_same_weights(here, there)
        record = read(there, "record.json")["parts"][0]
        assert record["reward"] == {"name": "house_style", "version": "1"}
        assert record["settings"]["reward_options"] == {"url": url}

        # Whatever comes after a training knows the reward as well, and that it has moved.
        figures = tmp_path / "figures.json"
        common = [str(there), "--count", "2", "--samples", "1"]
        assert evaluate.main([*common, "--json", str(figures)]) == 0
        assert read(tmp_path, "figures.json")["reward"] == "house_style"
        assert evaluate.main([*common, "--reward", "remote", "--json", str(figures)]) == 0
        assert evaluate.main([*common, "--reward", "jpeg_compressibility"]) == 0
        picture = str(tmp_path / "picture.png")
        assert sample.main([str(there), "--prompt", "a cat", "--output", picture]) == 0

    with served(make_reward("house_style")) as moved:
        settings = read(there, "settings.json")
        settings |= {"reward": {"remote": [moved]}, "reward_options": {"timeout": 9.0}}
        (there / "settings.json").write_text(json.dumps(settings))
        assert train.main(["--resume", str(there), "--images", "12"]) == 0
    assert train.main(["--resume", str(here), "--images", "12"]) == 0
    assert metrics(here) == metrics(there)
    assert_same_weights(here, there)

    # Another reward at the same place is none to go on with.
    with served(Told()) as other:
        settings["reward"] = {"remote": other}
        (there / "settings.json").write_text(json.dumps(settings))
        with pytest.raises(InvalidInputError, match=r"something else: reward \(.*'house_style'"):
            train.main(["--resume", str(there), "--images", "16"])


@pytest.mark.slow
def test_a_run_whose_server_dies_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    length = ("--images", "16", "--checkpoint-every", "1")
    here = trained(tmp_path / "here", *length, "--reward", "house_style")
    there = tmp_path / "there"
    with served(make_reward("house_style")) as url:
        # The evaluation and two rounds pass, the third is cut off amid its scores.
        with Spoiler(url, lambda handler, _: handler.connection.close(), lambda n: n > 2) as dying:
            options = json.dumps({"url": dying.url, "retries": 1, "backoff": 0.01})
            with (
                pytest.warns(RuntimeWarning, match="asked once more"),
                pytest.raises(RewardServerError, match=f"{dying.url}.*--resume {there}"),
            ):
                trained(there, *length, "--reward", "remote", "--reward-options", options)
        assert dying.asked == 5
        assert len(metrics(there)) == 2

        settings = read(there, "settings.json")
        settings["reward_options"]["url"] = url
        (there / "settings.json").write_text(json.dumps(settings))
        assert train.main(["--resume", str(there)]) == 0
    assert metrics(here) == metrics(there)
    assert len(metrics(there)) == 4
    assert_same_weights(here, there)


@pytest.mark.slow
def test_a_sum_of_servers_goes_on_when_one_has_moved(tmp_path: Path) -> None:
    weights = json.dumps({"remote/style": 1.0, "remote/size": 0.1})
    run = tmp_path / "run"
    with served(make_reward("jpeg_compressibility")) as size:
        with served(make_reward("house_style")) as style:
            options = {"remote/style": {"url": style}, "remote/size": {"url": size}}
            trained(run, "--reward", weights, "--reward-options", json.dumps(options))
        settings = read(run, "settings.json")
        with served(make_reward("house_style")) as moved:
            settings["reward_options"]["remote/style"]["url"] = moved
            (run / "settings.json").write_text(json.dumps(settings))
            assert train.main(["--resume", str(run), "--images", "12"]) == 0
            assert len(metrics(run)) == 3
        with served(Told()) as other:
            settings["reward_options"]["remote/style"]["url"] = other
            (run / "settings.json").write_text(json.dumps(settings))
            with pytest.raises(InvalidInputError, match=r"something else: reward \("):
                train.main(["--resume", str(run), "--images", "16"])
