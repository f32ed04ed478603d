"""What Weights & Biases is told, read back from what it writes offline."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from agents import train
from agents.runs.builders import load_evaluation
from agents.runs.run_folder import RunFolder
from diffusion_gym.errors import InvalidInputError

QUICK = (
    "--images 8 --num-envs 4 --samples-per-prompt 2 --num-inference-steps 2 --eval-prompts 2 "
    "--eval-samples 1 --lora-rank 2 --reward jpeg_compressibility --also jpeg_compressibility "
    "--wandb a-project --picture-every 1"
).split()

BLOCK, FULL, LAST = 32768, 1, 4


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb.teardown()  # what one test has set up is not the next one's
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def records(file: Path) -> Iterator[Any]:
    """Everything in an offline run's file, a LevelDB log after a header of seven bytes."""
    data, at, pieces = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # too little for a header is left empty
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        pieces += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield record


def history(run: RunFolder) -> list[dict[str, Any]]:
    """What was logged, call by call, in all parts of the run."""
    wandb.teardown()  # the process that writes the files may be behind
    files = sorted(run.wandb.glob("offline-run-*/run-*.wandb"))
    rows = []
    for file in files:
        for record in records(file):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append(
                    {
                        item.key or ".".join(item.nested_key): json.loads(item.value_json)
                        for item in items
                    }
                )
    return rows


def test_it_is_told_what_tensorboard_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = RunFolder(tmp_path / "run")
    assert train.main([*QUICK, "--output", str(run.path)]) == 0
    assert "wandb:" not in "".join(capfd.readouterr())  # the screen is the run's own
    rows, metrics, summary = history(run), run.metrics(), run.summary()

    rounds = [row for row in rows if "rollout/reward_mean" in row]
    assert [row["images"] for row in rounds] == [4, 8]
    for row, known in zip(rounds, metrics, strict=True):
        for name, value in known.items():
            if value == value and not name.startswith("time/"):  # NaN is left out
                assert row[name] == pytest.approx(value), name
    evaluations = [row for row in rows if "eval/reward" in row]
    assert [row["images"] for row in evaluations] == [0, 8]
    assert evaluations[-1]["eval/reward"] == pytest.approx(summary["reward_after"])

    prompts = load_evaluation(run.before_file).prompts
    shown = [row for row in rows if "pictures.count" in row]
    assert [row["images"] for row in shown] == [0, 4, 8]
    for row in shown:
        assert row["pictures.captions"] == prompts
        assert len(row["pictures.filenames"]) == row["pictures.count"] == 2

    # A run that goes on does so in the same place.
    assert train.main(["--resume", str(run.path), "--images", "12"]) == 0
    known = json.loads(run.wandb_file.read_text())["id"]
    files = list(run.wandb.glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert {file.stem for file in files} == {f"run-{known}"}
    assert [row["images"] for row in history(run) if "rollout/reward_mean" in row] == [4, 8, 12]


def test_without_the_package_it_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InvalidInputError, match="pip install wandb"):
        train.main([*QUICK, "--output", str(tmp_path / "run")])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_that_name_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    for name in [name for name in sys.modules if name.split(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InvalidInputError, match="pip install wandb"):
        train.main([*QUICK, "--output", str(tmp_path / "run")])


def test_without_an_account_it_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="logged in and online, or WANDB_MODE=offline"):
        train.main([*QUICK, "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_damaged_id_is_reported(tmp_path: Path) -> None:
    from agents.runs.weights_and_biases import _id

    run = RunFolder(tmp_path)
    known = _id(run)
    assert known == _id(run)
    run.wandb_file.write_text("[")
    with pytest.raises(InvalidInputError, match=r"wandb\.json, which is damaged"):
        _id(run)
