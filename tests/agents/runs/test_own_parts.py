"""Code that command lines name: rewards, shapings, algorithms and callbacks of one's own."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from agents import evaluate, sample, train
from agents.runs import named_code, own_parts
from agents.runs.named_code import code_name, imported, is_code, short
from agents.runs.run_folder import RunFolder
from agents.runs.settings import TrainSettings
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import loading
from diffusion_gym.rewards import make_reward
from diffusion_gym.rewards.registry import _factories

QUICK = (
    "--images 8 --num-envs 4 --samples-per-prompt 2 --num-inference-steps 3 --eval-prompts 2 "
    "--eval-samples 1 --lora-rank 2 --prompts emoji-objects --also jpeg_compressibility"
).split()

PARTS = '''
"""Parts of a run: a file as its user writes it."""

from pathlib import Path

import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents.ppo import DiffusionPPO
from diffusion_gym import RewardResult
from diffusion_gym.wrappers import CreditReward, VectorShaping

with (Path(__file__).parent / "imports.txt").open("a") as imports:
    imports.write("imported\\n")


def colour(images, prompts, *, channel: int = 0):
    return images[:, channel].mean(dim=(1, 2))


def listens(images, prompts, metadata):
    return [float(len(about)) for about in metadata]


def factory(device, *, scale: float = 1.0):
    return lambda images, prompts: scale * images.mean(dim=(1, 2, 3))


class Contrast:
    name = "contrast"
    version = "3"

    def __init__(self, power: float, device="nowhere"):
        self.power, self.device = power, device

    def __call__(self, images, prompts):
        return RewardResult.from_values(images.flatten(1).std(1) ** self.power)


contrast = Contrast(2.0)
number = 3


class Early(CreditReward):
    def __init__(self, env, power: float = 1.0):
        super().__init__(env, power=power)
        self.power = power

    def assign_credit(self, episodes, step_mask, infos):
        count, steps = step_mask.shape
        return {"step_weight": ((1 - torch.arange(steps) / steps) ** self.power).repeat(count, 1)}


class VectorEarly(Early, VectorShaping, form_of=Early):
    pass


class Formless(CreditReward):
    pass


class Agent(DiffusionPPO):
    def _loss(self, pairs, *, first):
        loss, log = super()._loss(pairs, first=first)
        return 0.5 * loss, log


class Count(BaseCallback):
    steps = 0

    def _on_step(self):
        Count.steps += 1
        return True


class StopsAtOnce(BaseCallback):
    def _on_step(self):
        return False


class Needs(BaseCallback):
    def __init__(self, path):
        super().__init__()

    def _on_step(self):
        return True
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mine") / "parts.py"
    path.write_text(PARTS)
    return path


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Of what is imported here, nothing is known to other tests."""
    tables: tuple[dict[str, Any], ...] = (
        *(own_parts.ALGORITHMS, own_parts.METHODS, _factories),
        *own_parts._OWN.values(),  # type: ignore[arg-type]
    )
    known = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, known, strict=True):
        table.clear()
        table.update(before)


@pytest.fixture
def forgotten() -> Callable[[Path], None]:
    """Makes this process one that has not imported a file."""

    def forget(file: Path) -> None:
        for kind in own_parts._OWN.values():
            for text in [name for name in kind if name.startswith(f"{file}:")]:
                del kind[text]  # type: ignore[attr-defined]
        for names in (own_parts.ALGORITHMS, own_parts.METHODS, registry()):
            for text in [name for name in names if name.startswith(f"{file}:")]:
                del names[text]
        for name in [name for name in sys.modules if name.startswith("_named_code_")]:
            if getattr(sys.modules[name], "__file__", None) == str(file):
                del sys.modules[name]
        (file.parent / "imports.txt").unlink(missing_ok=True)

    return forget


def registry() -> dict[str, Any]:
    return _factories


def imports(file: Path) -> int:
    log = file.parent / "imports.txt"
    return len(log.read_text().splitlines()) if log.exists() else 0


# ------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("text", "source", "name"),
    [
        ("package.module:name", "package.module", "name"),
        ("module:Outer.inner", "module", "Outer.inner"),
    ],
)
def test_names_of_modules(text: str, source: str, name: str) -> None:
    assert tuple(code_name("--reward", text)) == (source, name)
    assert str(code_name("--reward", text)) == text
    assert short(text) == name


def test_names_in_files_become_absolute(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    found = code_name("--reward", "parts.py:colour")
    assert found == (str(file.resolve()), "colour")
    assert found.is_file
    assert str(code_name("--reward", "../mine0/./parts.py:colour")) == str(found)
    monkeypatch.setenv("HOME", str(file.parent))
    assert code_name("--reward", "~/parts.py:colour") == found


@pytest.mark.parametrize(
    "text",
    [
        *(
            ":",
            "x:",
            ":x",
            "a..b:c",
            ".a:b",
            "a:b:c",
            "a b:c",
            "a:b c",
            "a:1",
            "1:a",
            "a:b.",
            "a:.b",
        ),
        *("parts.py", "parts.py:", "there/is/none.py:x", "/:x", "/etc/passwd:x", "a/b:c", "é:\0"),
        *("x\0.py:a", "x" * 5000 + ".py:a", "~nobody-here/x.py:a", "\ud800.py:a", "http://x.py:a"),
        *("__import__('os'):x", "$(touch x):x", "[red]:x", "-m:x", "../:x"),
    ],
)
def test_malformed_names_are_refused_with_what_was_given(text: str) -> None:
    assert is_code(text)
    with pytest.raises(InvalidInputError, match="--reward") as caught:
        imported("--reward", text)
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


def test_folders_and_pipes_are_no_files_of_code(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    for name in ("folder", "pipe"):
        with pytest.raises(InvalidInputError, match="in a file that is there"):
            imported("--reward", f"{tmp_path / name}.py:x")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of"),
        ("def (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise RuntimeError", "RuntimeError"),
        ("\0", "SyntaxError|ValueError"),
        ("x = 1", "there is no 'y'"),
    ],
)
def test_what_cannot_be_imported_says_why(tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(content)
    with pytest.raises(InvalidInputError, match=why) as caught:
        imported("--shaping", f"{file}:y")
    assert f"{file}:y" in str(caught.value)
    assert not [n for n, m in sys.modules.items() if "named_code_" in n and "broken" in str(m)] or (
        content == "x = 1"
    )


def test_a_file_is_run_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "counted.py"
    file.write_text("import sibling\nvalue = [1]\n")
    (tmp_path / "sibling.py").write_text("")
    first = imported("--reward", f"{file}:value")
    assert imported("--reward", f"{file}:value") is first
    before = named_code.origin(f"{file}:value")
    file.write_text("value = [2]\n")
    assert imported("--reward", f"{file}:value") == [2]
    after = named_code.origin(f"{file}:value")
    assert before.file == after.file == str(file)
    assert before.sha256 != after.sha256
    assert not (tmp_path / "__pycache__" / "counted.cpython-311.pyc").exists()


# --------------------------------------------------------------- what each has to be


@pytest.mark.parametrize(
    ("name", "options", "value"),
    [
        ("colour", {}, 0.25),
        ("colour", {"channel": 1}, 0.5),
        ("factory", {"scale": 2.0}, 2 * (0.25 + 0.5) / 3),
        ("Contrast", {"power": 2}, None),
        ("contrast", {}, None),
    ],
)
def test_rewards_are_functions_classes_factories_and_objects(
    file: Path, name: str, options: dict[str, Any], value: float | None
) -> None:
    images = torch.zeros(2, 3, 4, 4)
    images[:, 0], images[:, 1] = 0.25, 0.5
    text = f"{file}:{name}"
    own_parts.use({"reward": text, "reward_options": {text: options}})
    reward = make_reward(text, options={text: options}, device="cpu")
    expected = images.flatten(1).std(1) ** 2 if value is None else torch.full((2,), value)
    assert torch.allclose(reward(images, ["a", "b"]).values, expected)
    assert reward.name == name.lower()
    assert reward.version == ("3" if value is None else reward.version)
    if name == "Contrast":
        assert reward.device == "cpu"  # type: ignore[attr-defined]
    parts = {text: 2.0, "jpeg_compressibility": 0.0}
    composite = make_reward(parts, options={text: options})
    assert set(composite(images, ["a", "b"]).terms) >= {name, "jpeg_compressibility"}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"reward": "parts:number"}, "expected a function of images and prompts.*got int 3"),
        ({"reward": "parts:Contrast"}, "needs the options power"),
        ({"reward": "parts:colour", "reward_options": {"no": 1}}, "unknown option 'no'"),
        ({"reward": "parts:colour", "reward_options": {"channel": "x"}}, "whole number, got 'x'"),
        ({"reward": "parts:contrast", "reward_options": {"power": 1}}, "unknown option 'power'"),
        ({"reward": "json:dumps"}, r"called as reward\(images, prompts\)"),
        ({"shaping": "parts:colour"}, "subclass of CreditReward, got an object of type function"),
        ({"shaping": "parts:Agent"}, "subclass of CreditReward, got the class Agent"),
        ({"shaping": "parts:CreditReward"}, "subclass of CreditReward"),
        ({"shaping": "parts:Formless"}, "form for vector environments"),
        (
            {"shaping": "parts:Early", "shaping_options": {"no": 1}},
            "unexpected keyword argument 'no'",
        ),
        ({"algorithm": "parts:Early"}, "subclass of ImageAlgorithm, got the class Early"),
        ({"algorithm": "agents.common.image_algorithm:ImageAlgorithm"}, "subclass of ImageAlg"),
        ({"callback": ["parts:number"]}, "subclass of BaseCallback, got an object of type int"),
        ({"callback": ["parts:Needs"]}, "missing a required argument: 'path'"),
        ({"also": ["parts:number"]}, "expected a function of images"),
    ],
)
def test_what_it_is_not_is_told_before_a_model_loads(
    file: Path, settings: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_model", load)
    full: dict[str, Any] = {
        name: json.loads(json.dumps(value).replace("parts:", f"{file}:"))
        for name, value in settings.items()
    }
    if "reward_options" in full:
        full["reward_options"] = {full["reward"]: full["reward_options"]}
    arguments = []
    for name, value in full.items():
        text = json.dumps(value) if isinstance(value, dict) else value
        text = ",".join(value) if isinstance(value, list) else text
        arguments += [f"--{name.replace('_', '-')}", text]
    with pytest.raises(InvalidInputError, match=why) as caught:
        train.main([*QUICK[:-2], *arguments])
    (given,) = [v for k, v in full.items() if not k.endswith("options")]
    assert (given if isinstance(given, str) else given[0]) in str(caught.value)


def test_settings_of_a_program_need_the_code_imported(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("def reward(images, prompts): return [0.0] * len(images)")
    text = f"{tmp_path / 'other.py'}:reward"
    with pytest.raises(InvalidInputError, match=r"own_parts\.use has imported"):
        TrainSettings.of(reward=text)
    own_parts.use({"reward": text})
    assert TrainSettings.of(reward=text).env.reward == text


# ------------------------------------------------------------------------------ commands


@pytest.fixture(scope="module")
def run(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "own"
    names = {"reward": "colour", "shaping": "Early", "algorithm": "Agent", "callback": "Count"}
    arguments = [word for k, name in names.items() for word in (f"--{k}", f"{file}:{name}")]
    options = [
        "--reward-options",
        '{"colour": {"channel": 2}}',
        "--shaping-options",
        '{"power": 2}',
    ]
    callback = ["--callback", f"{file}:Count"]
    assert train.main([*QUICK, *arguments, *options, *callback, "--output", str(folder)]) == 0
    return folder


def test_a_run_of_own_parts_records_them(run: Path, file: Path) -> None:
    settings = json.loads((run / "settings.json").read_text())
    assert settings["reward"] == f"{file}:colour"
    assert settings["reward_options"] == {f"{file}:colour": {"channel": 2}}
    assert settings["shaping"] == f"{file}:Early"
    assert settings["algorithm"] == f"{file}:Agent"
    assert settings["callback"] == [f"{file}:Count"] * 2
    (record,) = json.loads((run / "record.json").read_text())["parts"]
    assert set(record["code"]) == {f"{file}:{n}" for n in ("colour", "Early", "Agent", "Count")}
    digests = {entry["sha256"] for entry in record["code"].values()}
    assert len(digests) == 1
    assert record["reward"] == {"name": "colour", "version": digests.pop()[:12]}
    assert imported("--callback", f"{file}:Count").steps == 2 * 2
    credit = [v for k, v in RunFolder(run).metrics()[0].items() if k.startswith("credit/")]
    assert credit[0] > credit[1] > credit[2]
    assert imports(file) == 1


@pytest.mark.slow
def test_others_code_is_not_imported_unless_trusted(
    run: Path, file: Path, tmp_path: Path, forgotten: Callable[[Path], None], capsys: Any
) -> None:
    forgotten(file)
    draw = ["--prompt", "a cat", "--samples", "1", "--output", str(tmp_path / "x.png")]
    assert sample.main([str(run), *draw]) == 0
    for command in (
        lambda: evaluate.main([str(run), "--count", "1", "--samples", "1"]),
        lambda: train.main(["--resume", str(run)]),
    ):
        with pytest.raises(InvalidInputError, match=r"names code that it does not hold.*--trust"):
            command()
    few = ["--count", "1", "--samples", "1", "--also", "jpeg_compressibility"]
    assert evaluate.main([str(run), *few, "--reward", "clip_score"]) == 0
    printed = capsys.readouterr().out
    assert "left out: its code needs --trust" in printed
    assert "colour" not in printed
    assert imports(file) == 0

    assert evaluate.main([str(run), *few, "--trust"]) == 0
    assert imports(file) == 1
    assert "colour" in capsys.readouterr().out
    assert train.main(["--resume", str(run), "--images", "12", "--trust"]) == 0
    assert len(RunFolder(run).metrics()) == 3
    assert imports(file) == 1

    forgotten(file)
    assert evaluate.main([str(run), *few, "--reward", f"{file}:colour"]) == 0  # named again
    assert imports(file) == 1


def test_a_preset_is_no_person(file: Path, tmp_path: Path, forgotten: Callable[..., None]) -> None:
    forgotten(file)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'reward = "{file}:colour"\nimages = 8\n')
    with pytest.raises(InvalidInputError, match=r"recipe\.toml names code.*--trust"):
        train.main(["--preset", str(recipe), *QUICK])
    assert imports(file) == 0
    choice, _ = train.cli.parse_known(train.Choice, ["--preset", str(recipe), "--trust"])
    train.import_named(choice)
    assert imports(file) == 1
    settings = train.read_settings(["--preset", str(recipe), *QUICK])
    assert settings.env.reward == f"{file}:colour"


def test_changed_code_is_refused_by_resume_and_told_by_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text("def bright(images, prompts):\n    return images.mean((1, 2, 3))\n")
    assert train.main([*QUICK, "--reward", f"{file}:bright", "--output", str(run)]) == 0
    file.write_text(file.read_text() + "# another\n")
    with pytest.raises(InvalidInputError, match=r"the code of .*mine\.py:bright.*has changed"):
        train.main(["--resume", str(run), "--trust", "--images", "12"])
    few = ["--count", "1", "--samples", "1", "--also", "jpeg_compressibility"]
    assert evaluate.main([str(run), *few, "--trust"]) == 0
    assert "other figures than the run's own may come" in capsys.readouterr().out


def test_a_callback_that_stops_ends_the_run_after_the_round(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    callback = ["--callback", f"{file}:StopsAtOnce", "--callback", f"{file}:Count"]
    reward = ["--reward", f'{{"{file}:colour": 1, "jpeg_compressibility": 0.5}}']
    assert train.main([*QUICK, *callback, *reward, "--output", str(run)]) == 0
    assert "ended after 4 images: a callback asked to" in capsys.readouterr().out
    assert RunFolder(run).summary()["images"] == 4
    assert RunFolder(run).summary()["reward"] == "1 colour + 0.5 jpeg_compressibility"
    assert RunFolder(run).checkpoint.name == "round-000001"
