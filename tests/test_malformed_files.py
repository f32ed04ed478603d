"""Malformed command lines, prompt files, presets and run folders.

Each is refused in words, before anything is written, or means something and is obeyed. Whatever
happens, no half-written file stays, and what was not damaged is as it was.
"""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from nonsense import Judge

import diffusion_gym
from agents import evaluate, report, sample, train
from agents.files import is_leftover
from agents.runs import cli
from agents.runs.settings import TrainSettings
from diffusion_gym.errors import DiffusionGymError
from diffusion_gym.models import DiffusionModel
from diffusion_gym.prompts import load_prompts

TINY = (
    "--images 8 --num-envs 4 --samples-per-prompt 2 --num-inference-steps 2 --eval-prompts 2 "
    "--eval-samples 1 --lora-rank 2 --reward jpeg_compressibility"
).split()

BOX = 3_000
"""Characters of the longest message about an option, with its explanation and a frame."""

Main = Callable[[Sequence[str]], int]


@pytest.fixture(scope="module", autouse=True)
def model() -> DiffusionModel:
    """Held, so that no environment reads it again."""
    return diffusion_gym.load_model()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run; tests copy it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train.main([*TINY, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


def contents(folder: Path) -> dict[str, bytes | None]:
    """All that is below a folder, but for the mark that a run is in use."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


@dataclasses.dataclass
class Commands(Judge):
    """Judges commands by their exit status, their message and the files that they leave.

    Attributes:
        capsys: What they print to.
        folder: Where they run.
    """

    capsys: Any = None
    folder: Path = Path()

    def run(self, case: str, main: Main, arguments: Sequence[str]) -> bool:
        """Runs a command; whether it was accepted. What it says and leaves is judged."""
        before = contents(self.folder)
        self.capsys.readouterr()
        accepted, raw = False, False
        try:
            accepted = main(arguments) == 0
            if not accepted:
                self.violations.append(f"{case}: ended with another status than 0")
        except SystemExit as end:
            if end.code != 2:
                self.violations.append(f"{case}: exit status {end.code}")
            printed = self.capsys.readouterr()
            self.says(case, printed.err + printed.out, BOX)
        except (DiffusionGymError, OSError) as error:
            if isinstance(error, OSError):
                self._raw(case, error)
            self.says(case, str(error))
        except Exception as error:
            raw = True
            self._raw(case, error)
        after = contents(self.folder)
        left = [name for name in after if is_leftover(Path(name))]
        if left:
            self.violations.append(f"{case}: left {left}")
        if not accepted and not raw and before != after:
            changed = [name for name in before | after if before.get(name, 0) != after.get(name, 0)]
            self.violations.append(f"{case}: refused, but changed {changed}")
        return accepted

    def refused(self, case: str, main: Main, arguments: Sequence[str]) -> None:  # type: ignore[override]
        if self.run(case, main, arguments):
            self.violations.append(f"{case}: accepted")


@pytest.fixture
def commands(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Commands:
    monkeypatch.chdir(tmp_path)
    return Commands(capsys=capsys, folder=tmp_path)


# --------------------------------------------------------------------------------- command lines

TEXTS: Mapping[str, str] = {
    "no text": "",
    "blanks": " \t",
    "x": "x",
    "two lines": "x\ny",
    "NUL": "x\0y",
    "no character": "x\ud800",
    "not UTF-8": "x\udcff",
    "-1": "-1",
    "0": "0",
    "1.5": "1.5",
    "nan": "nan",
    "-inf": "-inf",
    "1e999": "1e999",
    "5,000 digits": "1" * 5_000,
    "none": "none",
    "null": "null",
    "True": "True",
    "comma": ",",
    "half an object": '{"x": ',
    "half a list": "[1, ",
    "empty object": "{}",
    "empty list": "[]",
    "list of numbers": "[1, 2]",
    "object of NaN": '{"x": NaN}',
    "nested lists": "[" * 5_000 + "]" * 5_000,
    "nested objects": '{"x": ' * 5_000 + "1" + "}" * 5_000,
    "long text": "x" * 100_000,
    "long path": "x/" * 5_000 + "x",
    "escape": "\x1b[2J",
    "option": "--seed",
}
"""Arguments that mean nothing to most options."""

READ_AS_TEXT = {
    name: kind
    for name, kind in TrainSettings.kinds().items()
    if not cli._is_own(kind)
    and kind is not bool
    and not all(typing.get_origin(one) is typing.Literal for one in cli._alternatives(kind))
}
"""The options of agents.train whose value is any text."""


def meant(text: str) -> list[Any]:
    """All that a text can mean to an option, by other readers than ours."""
    meanings: list[Any] = [text, tuple(word.strip() for word in text.split(","))]
    if text.lower() == "none":
        meanings.append(None)
    for read in (int, float, json.loads, lambda text: json.loads(f"[{text}]")):
        try:
            meanings.append(read(text))
        except (ValueError, RecursionError):
            continue
    return [tuple(value) if isinstance(value, list) else value for value in meanings]


@pytest.mark.parametrize("name", READ_AS_TEXT)
def test_texts_of_the_options_of_a_training(name: str) -> None:
    judge = Judge()
    kind = READ_AS_TEXT[name]
    for label, text in TEXTS.items():
        case = f"{name}={label}"
        try:
            value = cli.from_text(name, text, kind)
        except ValueError as error:
            judge.says(case, str(error))
        except Exception as error:
            judge._raw(case, error)
        else:
            if value not in meant(text):
                judge.violations.append(f"{case}: read as {value!r:.100}")
            if isinstance(value, float) and not math.isfinite(value):
                judge.violations.append(f"{case}: accepted")
            if isinstance(value, str) and ("\0" in text or "\ud800" in text):
                judge.violations.append(f"{case}: accepted")
    judge.settle()


NEVER = {
    name: "-1" if name not in ("output", "preset") else "x\0y" for name in TrainSettings.kinds()
} | {"output": "x\0y", "preset": "x"}
"""A value that an option of agents.train never has."""


@pytest.mark.slow
def test_every_option_of_a_training(commands: Commands) -> None:
    for name, text in NEVER.items():
        option = f"--{name.replace('_', '-')}"
        commands.refused(f"{option} {text!r}", train.main, [*TINY, option, text])
        if TrainSettings.kinds()[name] is not bool:
            commands.refused(f"{option}", train.main, [*TINY, option])
    commands.settle()


CONTRADICTIONS: Mapping[str, Sequence[str]] = {
    "batch that no group fits": ["--num-envs", "5"],
    "one image a group": ["--samples-per-prompt", "1"],
    "no noise": ["--eta", "0"],
    "more steps than the model has": ["--num-inference-steps", "1001"],
    "alpha of 0": ["--lora-alpha", "0"],
    "no such layer": ["--lora-targets", "x"],
    "no layers": ["--lora-targets", "[]"],
    "sampler of other models": ["--sampler", "flow_sde"],
    "options of another reward": ["--reward-options", '{"aesthetic": {}}'],
    "weight of NaN": ["--reward", '{"jpeg_compressibility": NaN}'],
    "weights of nothing": ["--reward", "{}"],
    "no such preset": ["--preset", "x"],
    "no such preset file": ["--preset", "x.toml"],
    "no such part": ["--prompts", "emoji-objects:x"],
    "no such file": ["--prompts", "x.txt"],
    "unknown option": ["--no-such-option", "1"],
    "unknown flag": ["--no-such-option"],
    "too many words": ["x"],
    "help for nobody": ["-x"],
    "option twice, the second wrong": ["--seed", "1", "--seed", "x"],
    "resumes nothing": ["--resume", "x"],
    "resumes no text": ["--resume", ""],
    "option of adam": ["--optimizer-kwargs", '{"x": 1}'],
    "betas": ["--optimizer-kwargs", '{"betas": [2, 3]}'],
    "device": ["--device", "meta"],
    "precision": ["--dtype", "float64"],
    "folder in a file": ["--output", "file/x"],
    "file as folder": ["--output", "file"],
    "folder in use": ["--output", "used"],
    "device as folder": ["--output", "/dev/null"],
    "long name": ["--output", "x" * 5_000],
    "no text as folder": ["--output", ""],
    "model that is a file": ["--model", "file"],
    "model that is a folder": ["--model", "used"],
    "b2 with too few images": ["--shaping", "b2", "--samples-per-prompt", "2"],
    "b2 that starts after the end": ["--shaping", "b2", "--b2-start", "99"],
}
"""Options of agents.train that each can be read, and that cannot work."""


@pytest.mark.slow
def test_options_that_contradict(commands: Commands) -> None:
    (commands.folder / "file").write_text("x")
    (commands.folder / "used").mkdir()
    (commands.folder / "used" / "x").touch()
    for case, arguments in CONTRADICTIONS.items():
        given = TINY if "--resume" not in arguments else []
        commands.refused(case, train.main, [*given, *arguments])
    commands.settle()


RESUMED_WITH = (
    *(["--images", "1"], ["--seed", "1"], ["--reward", "house_style"], ["--output", "x"]),
    *(["--preset", "ddpo"], ["--device", "cpu"], ["x"], ["--no-such-option"]),
    *(["--model", ""], ["--shaping", "x"], ["--lora-rank"], ["--gradient-checkpointing"]),
)


def test_resume_with_other_options(commands: Commands, run: Path) -> None:
    for extra in RESUMED_WITH:
        for arguments in (["--resume", str(run), *extra], [*extra, "--resume", str(run)]):
            if "--lora-rank" not in arguments[:1]:  # its value would be --resume
                commands.refused(" ".join(arguments), train.main, arguments)
    commands.settle()


def drawn(run: str) -> list[str]:
    return [run, "--prompt", "a cat", "--samples", "1"]


SAMPLE_OPTIONS = ("--prompt", "--samples", "--seed", "--scale", "--output", "--film", "")
SAMPLE_ACCEPTS = {
    ("--prompt", label)
    for label in (
        *("x", "two lines", "-1", "0", "1.5", "nan", "-inf", "1e999", "none", "null"),
        *("5,000 digits", "True", "comma", "half an object", "half a list", "empty object"),
        *("empty list", "list of numbers", "object of NaN", "nested lists", "nested objects"),
        *("long text", "long path", "escape"),
    )
} | {("--seed", "0"), ("--film", "none")}
EVALUATE_OPTIONS = ("--reward", "--also", "--prompts", "--count", "--samples", "--pictures", "")
"""The nameless option is the run folder."""


@pytest.mark.slow
@pytest.mark.parametrize("option", SAMPLE_OPTIONS)
def test_every_option_of_sample(commands: Commands, run: Path, option: str) -> None:
    for label, text in TEXTS.items():
        if (option, label) not in SAMPLE_ACCEPTS:
            given = [*drawn("run"), option, text] if option else drawn(text)
            commands.refused(f"{option} {label}", sample.main, given)
    commands.settle()


@pytest.mark.slow
@pytest.mark.parametrize("option", EVALUATE_OPTIONS)
def test_every_option_of_evaluate(commands: Commands, run: Path, option: str) -> None:
    small = ["--count", "1", "--samples", "1"]
    for label, text in TEXTS.items():
        given = ["run", *small, option, text] if option else [text, *small]
        if label == "none" and option in ("--reward", "--prompts", "--pictures", "--also"):
            continue  # the default
        if (option, label) == ("--also", "empty list"):
            continue  # no other reward
        commands.refused(f"{option} {label}", evaluate.main, given)
    commands.settle()


WRONG_OUTPUTS: Mapping[str, str] = {
    "no text": "",
    "a folder": "used",
    "in no folder": "no/such/folder/x.png",
    "in a file": "file/x.png",
    "in a loop": "loop/x.png",
    "a loop": "loop",
    "a device": "/dev/full",
    "a long name": "x" * 300 + ".png",
    "NUL": "x\0.png",
    "no character": "\ud800.png",
    "the folder itself": ".",
}
OUTPUTS: Mapping[str, tuple[Main, Sequence[str]]] = {
    "sample --output": (sample.main, [*drawn("run"), "--output"]),
    "sample --film": (sample.main, [*drawn("run"), "--film"]),
    "report --output": (report.main, ["run", "--output"]),
    "evaluate --json": (evaluate.main, ["run", "--count", "1", "--samples", "1", "--json"]),
    "evaluate --pictures": (evaluate.main, ["run", "--count", "1", "--samples", "1", "--pictures"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", OUTPUTS)
def test_outputs_that_cannot_be_written(commands: Commands, run: Path, what: str) -> None:
    main, arguments = OUTPUTS[what]
    (commands.folder / "file").write_text("x")
    (commands.folder / "used").mkdir()
    (commands.folder / "loop").symlink_to("loop")
    for label, text in WRONG_OUTPUTS.items():
        commands.refused(f"{what} {label}", main, [*arguments, text])
    commands.settle()


PROCESSES: Mapping[str, Sequence[str]] = {
    "unknown option": ["agents.train", "--no-such-option"],
    "not UTF-8": ["agents.sample", "\udcff", "--prompt", "x"],
    "no run": ["agents.evaluate", "no_such_run"],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PROCESSES)
def test_the_exit_status_of_a_process(case: str, tmp_path: Path) -> None:
    root = Path(train.__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-m", *PROCESSES[case]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        timeout=120,
    )
    text = (ended.stdout + ended.stderr).decode("utf-8", "replace")
    assert ended.returncode == 2, text
    assert "Traceback" not in text
    assert 0 < len(text) < BOX
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------- prompt files

DEEP = "[" * 50_000
FILES: Mapping[str, tuple[bytes, Sequence[str] | None]] = {
    # name: content, and the prompts that are read, or None where it is refused
    "empty.txt": (b"", None),
    "blank.txt": (b"\n \n\t\n", None),
    "comments.txt": (b"# a cat\n#\n", None),
    "nul.txt": (b"a\0cat\n", None),
    "latin-1.txt": ("a café\n".encode("latin-1"), None),
    "utf-16.txt": ("a cat\n".encode("utf-16"), None),
    "surrogate.txt": (b"a \xed\xa0\x80 cat\n", None),
    "cut.txt": ("a café".encode()[:-1], None),
    "binary.txt": (bytes(range(256)), None),
    "one.txt": (b"a cat", ["a cat"]),
    "dos.txt": (b"a cat\r\na dog\r\n", ["a cat", "a dog"]),
    "mac.txt": (b"a cat\ra dog\r", ["a cat", "a dog"]),
    "mark.txt": (b"\xef\xbb\xbfa cat\n", ["a cat"]),
    "twice.txt": (b"a cat\na cat\n", ["a cat"]),
    "long.txt": (b"x" * 1_000_000, ["x" * 1_000_000]),
    "escape.txt": (b"\x1b[2Ja cat\n", ["\x1b[2Ja cat"]),
    "empty.json": (b"", None),
    "blank.json": (b" \n", None),
    "null.json": (b"null", None),
    "number.json": (b"1", None),
    "nan.json": (b"NaN", None),
    "text.json": (b'"a cat"', None),
    "nothing.json": (b"[]", None),
    "object.json": (b"{}", None),
    "cut.json": (b'["a cat", "a do', None),
    "cut-list.json": (b'["a cat",', None),
    "two.json": (b'["a cat"] ["a dog"]', None),
    "nul.json": (b'["a\\u0000cat"]', None),
    "raw-nul.json": (b'["a\0cat"]', None),
    "surrogate.json": (b'["a \\ud800 cat"]', None),
    "latin-1.json": ('["a café"]'.encode("latin-1"), None),
    "utf-16.json": ('["a cat"]'.encode("utf-16"), None),
    "deep.json": (DEEP.encode(), None),
    "deep-object.json": (b'{"train":' * 50_000, None),
    "deep-item.json": (("[" * 900 + "]" * 900).encode(), None),
    "numbers.json": (b"[1, 2]", None),
    "huge-number.json": (b"[" + b"1" * 5_000 + b"]", None),
    "nulls.json": (b"[null]", None),
    "no-text.json": (b'[""]', None),
    "blank-text.json": (b'[" "]', None),
    "lists.json": (b'[["a cat"]]', None),
    "other-key.json": (b'[{"query": "a cat"}]', None),
    "wrong-type.json": (b'[{"prompt": 1}]', None),
    "negative.json": (b'[{"prompt": "a cat", "negative_prompt": 3}]', None),
    "train-text.json": (b'{"train": "a cat"}', None),
    "no-train.json": (b'{"held_out": ["a cat"]}', None),
    "other-part.json": (b'{"train": ["a cat"], "test": ["a dog"]}', None),
    "shared.json": (b'{"train": ["a cat"], "held_out": ["a cat"]}', None),
    "empty-train.json": (b'{"train": []}', None),
    "good.json": (b'["a cat", {"prompt": "a dog"}]', ["a cat", "a dog"]),
    "twice.json": (b'["a cat", "a cat"]', ["a cat"]),
    "pair.json": (b'["\\ud83d\\ude00"]', ["\U0001f600"]),
    "empty.jsonl": (b"", None),
    "blank.jsonl": (b"\n\n", None),
    "cut.jsonl": (b'"a cat"\n{"prompt": "a do', None),
    "deep.jsonl": (b'"a cat"\n' + DEEP.encode(), None),
    "list.jsonl": (b'["a cat"]\n', None),
    "numbers.jsonl": (b"1\n2\n", None),
    "null.jsonl": (b"null\n", None),
    "nul.jsonl": (b'"a\\u0000cat"\n', None),
    "surrogate.jsonl": (b'"\\udc00"\n', None),
    "missing.jsonl": (b'{"prompt": "a cat"}\n{"x": 1}\n', None),
    "latin-1.jsonl": ('"a café"'.encode("latin-1"), None),
    "good.jsonl": (b'"a cat"\n\n{"prompt": "a dog"}', ["a cat", "a dog"]),
    "empty.csv": (b"", None),
    "blank.csv": (b"\n\n", None),
    "header.csv": (b"prompt\n", None),
    "no-header.csv": (b"a cat\na dog\n", None),
    "other-column.csv": (b"text2,x\na cat,1\n", None),
    "unclosed.csv": (b'prompt\n"a cat\n', None),
    "quote-inside.csv": (b'prompt\n"a" cat\n', None),
    "empty-cell.csv": (b"prompt,x\n,1\n", None),
    "nul.csv": (b"prompt\na\0cat\n", None),
    "nul-header.csv": (b"pro\0mpt\na cat\n", None),
    "latin-1.csv": ("prompt\na café\n".encode("latin-1"), None),
    "utf-16.csv": ("prompt\na cat\n".encode("utf-16"), None),
    "negative.csv": (b"prompt,negative_prompt\na cat,a dog\na cat,a fox\n", None),
    "huge-cell.csv": (b"prompt\n" + b"x" * 200_000 + b"\n", None),
    "short.csv": (b"x,prompt\n1\n", None),
    "good.csv": (b'prompt\n"a cat"\n', ["a cat"]),
    "twice.csv": (b"prompt\na cat\na cat\n", ["a cat"]),
    "empty.tsv": (b"", None),
    "header.tsv": (b"prompt\tx\n", None),
    "commas.tsv": (b"prompt,x\na cat,1\n", None),
    "empty-cell.tsv": (b"prompt\tx\n\t1\n", None),
    "nul.tsv": (b"prompt\na\0cat\n", None),
    "latin-1.tsv": ("prompt\na café\n".encode("latin-1"), None),
    "quotes.tsv": (b'prompt\n"a cat\n', ['"a cat']),
    "unknown.foo": (b"a cat\n", None),
    "no_suffix": (b"a cat\n", None),
    "pickle.pt": (b"\x80\x04N.", None),
}
SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv")
NO_FILES: Mapping[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "folder": Path.mkdir,
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "nowhere": lambda path: path.symlink_to("no_such_file"),
}
"""What has the name of a prompt file, and is none; reading some of these would never end."""


@pytest.mark.filterwarnings("ignore:the prompt file")
@pytest.mark.parametrize("suffix", sorted({Path(name).suffix for name in FILES}))
def test_prompt_files(suffix: str, tmp_path: Path) -> None:
    judge = Judge()
    for name, (content, prompts) in FILES.items():
        file = tmp_path / name
        if file.suffix == suffix:
            file.write_bytes(content)
            if prompts is None:
                judge.refused(name, load_prompts, str(file))
            else:
                judge.obeyed(name, list(prompts), lambda path: list(load_prompts(path)), str(file))
    judge.settle()


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_prompt_file(kind: str, tmp_path: Path) -> None:
    judge = Judge()
    for suffix in SUFFIXES:
        path = tmp_path / f"x{suffix}"
        NO_FILES[kind](path)
        judge.refused(path.name, load_prompts, path)
        judge.refused(f"{path.name}:held_out", load_prompts, f"{path}:held_out")
    judge.settle()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_prompt_files_without_permission(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("a cat")
    file.chmod(0)
    judge = Judge()
    judge.refused("no permission", load_prompts, file)
    judge.settle()


# --------------------------------------------------------------------------------------- presets

PRESETS: Mapping[str, tuple[bytes, Mapping[str, Any] | None]] = {
    "empty": (b"", {}),
    "comment": (b"# nothing\n", {}),
    "good": (b"images = 8\n", {"images": 8}),
    "mark": (b"\xef\xbb\xbfimages = 8\n", None),
    "cut": (b"images =", None),
    "cut text": (b'model = "emoji', None),
    "cut list": (b"lora_targets = [", None),
    "latin-1": ('model = "é"'.encode("latin-1"), None),
    "nul": (b"images = 8\0", None),
    "deep list": (b"lora_targets = " + b"[" * 50_000, None),
    "deep table": (b"reward = " + b"{x = " * 50_000, None),
    "deep key": (b".".join([b"x"] * 5_000) + b" = 1", None),
    "twice": (b"images = 8\nimages = 9\n", None),
    "unknown": (b"imges = 8\n", None),
    "table": (b"[images]\nx = 1\n", None),
    "date": (b"images = 2020-01-01\n", None),
    "text": (b'images = "8"\n', None),
    "zero": (b"images = 0\n", None),
    "huge": (b"images = " + b"1" * 5_000 + b"\n", None),
    "nan": (b"kl_coef = nan\n", None),
    "inf": (b"learning_rate = inf\n", None),
    "truth": (b"num_envs = true\n", None),
    "own": (b'output = "x"\n', None),
    "preset": (b'preset = "x"\n', None),
    "no reward": (b'reward = ""\n', None),
    "no such shaping": (b'shaping = "x"\n', None),
    "list as model": (b"model = []\n", None),
    "number as shaping": (b"shaping = 1\n", None),
    "number as device": (b"device = 1\n", None),
    "number as reward": (b"reward = 1\n", None),
    "json": (b'{"images": 8}', None),
}


def test_presets(tmp_path: Path) -> None:
    judge = Judge()
    for name, (content, values) in PRESETS.items():
        file = tmp_path / f"{name}.toml"
        file.write_bytes(content)
        if values is None:
            judge.refused(name, lambda path: TrainSettings.of(preset=path), str(file))
        else:
            for option, value in values.items():
                settings = TrainSettings.of(preset=str(file))
                judge.obeyed(name, value, settings.flat().get, option)
    for kind, make in NO_FILES.items():
        path = tmp_path / f"{kind}.toml"
        make(path)
        judge.refused(kind, lambda path: TrainSettings.of(preset=path), str(path))
    judge.settle()


# ----------------------------------------------------------------------------------- run folders


def _flipped(content: bytes) -> bytes:
    """With another bit in the middle; in JSON at a quotation mark, where it shows in any value."""
    middle = len(content) // 2
    middle = max(middle, content.find(b'"', middle))
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: Mapping[str, Callable[[bytes], bytes] | None] = {
    "missing": None,
    "empty": lambda content: b"",
    "first byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "last byte off": lambda content: content[:-1],
    "a byte more": lambda content: content + b"\0",
    "flipped bit": _flipped,
    "zeros": lambda content: bytes(len(content)),
    "list": lambda content: b"[]",
    "null": lambda content: b"null",
    "object": lambda content: b"{}",
    "number": lambda content: b"1",
    "text": lambda content: b'"x"',
    "deep list": lambda content: b"[" * 50_000,
    "deep object": lambda content: b'{"x": ' * 50_000,
    "not UTF-8": lambda content: b"\xff" + content,
}
"""What happens to a file, from its content."""

INSTEAD: Mapping[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "nowhere": lambda path: path.symlink_to("no_such_file"),
}
"""What is put in a file's place."""

CHECKPOINT = "checkpoints/round-000002"
STORED = tuple(
    f"{CHECKPOINT}/{name}"
    for name in ("state.json", "state.safetensors", "weights.safetensors", "optimizer.safetensors")
)
SAMPLE: tuple[Main, Sequence[str]] = (sample.main, [*drawn("run"), "--output", "x.png"])
EVALUATE: tuple[Main, Sequence[str]] = (
    evaluate.main,
    ["run", "--count", "1", "--samples", "1", "--json", "x.json"],
)
RESUME: tuple[Main, Sequence[str]] = (train.main, ["--resume", "run"])

OPENED: Mapping[str, tuple[tuple[Main, Sequence[str]], Sequence[str], Sequence[str]]] = {
    # what is opened: by which command, which files, and which damages do not matter to it
    "sample": (SAMPLE, (f"{CHECKPOINT}/SHA256SUMS", STORED[0], STORED[2]), ()),
    "evaluate": (EVALUATE, (f"{CHECKPOINT}/SHA256SUMS", STORED[2]), ()),
    "resume": (RESUME, (f"{CHECKPOINT}/SHA256SUMS", *STORED), ()),
    # The end of line is no loss.
    "sample, settings": (SAMPLE, ("settings.json",), ("last byte off",)),
    "evaluate, settings": (EVALUATE, ("settings.json",), ("last byte off",)),
    "resume, settings": (RESUME, ("settings.json",), ("last byte off",)),
    "resume, record": (RESUME, ("record.json",), ("missing", "nowhere", "last byte off")),
    # A zip archive may have bytes after its end.
    "resume, before": (RESUME, ("before.npz",), ("missing", "nowhere", "a byte more")),
    "resume, metrics": (
        RESUME,
        ("metrics.csv",),
        # Nothing can tell that a digit is another; of a row that was cut, the others are left.
        ("last byte off", "a byte more", "flipped bit"),
    ),
    "resume, results": (
        RESUME,
        ("summary.json", "reward_curve.png"),
        tuple(name for name in (*DAMAGES, "nowhere")),
    ),
}


def damaged(path: Path, damage: str) -> None:
    """Damages a file, or a folder's content, or puts something else in its place."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    if damage in DAMAGES:
        change = DAMAGES[damage]
        for file in files:
            content = file.read_bytes()
            file.unlink()
            if change is not None:
                file.write_bytes(change(content))
        return
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    INSTEAD[damage](path)


@pytest.mark.slow
@pytest.mark.parametrize("what", OPENED)
def test_damaged_run_folders(commands: Commands, finished: Path, what: str) -> None:
    (main, arguments), files, harmless = OPENED[what]
    for file in files:
        for damage in (*DAMAGES, *INSTEAD):
            if damage in harmless and damage not in ("missing", "last byte off", "half"):
                continue  # as one that is tried; each takes seconds
            folder = commands.folder / "run"
            shutil.copytree(finished, folder)
            damaged(folder / file, damage)
            case = f"{what}: {file}: {damage}"
            if damage in harmless:
                if not commands.run(case, main, arguments):
                    commands.violations.append(f"{case}: refused")
                json.loads((folder / "summary.json").read_text())
            else:
                commands.refused(case, main, arguments)
            shutil.rmtree(folder)
    commands.settle()


# ----------------------------------------------------------------------------------------- count


def test_there_are_enough_cases() -> None:
    counts = {
        "texts of options": len(READ_AS_TEXT) * len(TEXTS),
        "options of train": 2 * len(NEVER) + len(CONTRADICTIONS) + 2 * len(RESUMED_WITH),
        "options of sample": len(SAMPLE_OPTIONS) * len(TEXTS) - len(SAMPLE_ACCEPTS),
        "options of evaluate": len(EVALUATE_OPTIONS) * len(TEXTS),
        "outputs": len(OUTPUTS) * len(WRONG_OUTPUTS) + len(PROCESSES),
        "prompt files": len(FILES) + 2 * len(SUFFIXES) * len(NO_FILES),
        "presets": len(PRESETS) + len(NO_FILES),
        "run folders": sum(
            len(files) * (len(DAMAGES) + len(INSTEAD)) for _, files, _ in OPENED.values()
        ),
    }
    print(counts)
    assert sum(counts.values()) >= 500
