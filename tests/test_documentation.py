"""README and pages, followed from top to bottom as a newcomer would.

All blocks run in one folder, page by page, so that a command can use the run folder of an earlier
one; a command that an earlier page has as well is not run again. The Python blocks of one page
share a namespace: a later one goes on where the earlier one ended. Commands are run for real, with
the options of `QUICK` added; what a newcomer types besides is compared with what CI does, or stands
in `NOT_RUN`.
"""

import importlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from pre_commit.clientlib import load_config

from agents.runs import methods
from agents.runs.algorithms import ALGORITHMS
from agents.runs.methods import METHODS
from diffusion_gym.rewards import registry
from diffusion_gym.rewards.builtin import BUILT_IN

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    *(README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
]

#: Options that make a command quick; they come last, so that they overrule the page's.
QUICK = {
    "agents.train": (
        "--images 8 --num-envs 4 --samples-per-prompt 2 --num-inference-steps 3 "
        "--eval-prompts 2 --eval-samples 1"
    ),
    "agents.train --resume": "",
    "agents.sample": "--samples 2",
    "agents.evaluate": "--count 2 --samples 1",
    "agents.report": "",
    "benchmarks.bare_loop": "--images 64",
    "benchmarks.versus_bare_loop": "--seeds 1 --images 64 --output results",
    "benchmarks.leaderboard plan": "--tier smoke --results records --tasks house_style",
    "benchmarks.leaderboard run": (
        "--tier smoke --results records --task house_style --method sparse --seed 0 "
        "--learning-rate 1e-4"
    ),
    "benchmarks.leaderboard report": "--output report",
    "benchmarks.step_signal": "--batches 4 --num-envs 4 --samples-per-prompt 4 --results signal",
    "benchmarks.emoji64": "--toy --device cpu",
    "benchmarks.emoji64.evaluate": "--prompts 4",
    "examples/reinforce.py": "--updates 1 --num-envs 2",
    "examples/branching.py": "--branches 2",
    "examples/own_reward.py": "--images 8 --num-envs 8 --eval-prompts 1",
    "examples/own_credit.py": "--images 8 --num-envs 8",
    "examples/own_agent.py": "--images 8 --num-envs 8",
    "examples/sb3_agents.py": "--images 8 --num-envs 8",
    "examples/torchrl_ppo.py": "--batches 1 --num-inference-steps 2",
    "examples/cleanrl_ppo.py": "--rounds 1 --num-inference-steps 2",
    "examples/own_checkpoint.py": (
        "--images 8 --num-envs 4 --samples-per-prompt 2 --batches-per-round 1 "
        "--num-inference-steps 3 --eval-prompts 1"
    ),
    "examples/denoising_film.py": "--columns 2",
    "examples/many_gpus.py": "--images 8 --num-envs 8",
}

#: Constants that stand in the way of a quick command and have no option.
SMALLER: dict[str, dict[str, Any]] = {
    "benchmarks.versus_bare_loop": {"SAMPLES": 1},
    "benchmarks.emoji64.evaluate": {
        "DIVERSITY_COPIES": 2,
        "DIVERSITY_STEPS": 2,
        "SPEED_BATCH": 4,
        "SPEED_REPEATS": 1,
        "PICTURES_PER_KIND": 1,
    },
}

#: Commands that only set the stage, or take hours (tests/benchmarks/leaderboard has them in small).
NOT_RUN = (
    r"python -m benchmarks\.leaderboard (run|run --(tasks|methods) .*|reproduce .*|check .*)",
    r'git clone "\$REPOSITORY" [\w-]+',
    r"pre-commit install",
    r"cd [\w-]+",
    r"python3? -m venv \S+",
    r"source \S+/bin/activate",
)

#: Those of the library: a benchmark registers one for itself.
SHAPINGS = [name for name, method in METHODS.items() if method.wrap.__module__ == methods.__name__]

PORT = "8765"
"""The port in the pages; another one, which is free, takes its place here."""

LANGUAGES = {"bash", "python", "text"}


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: str
    section: str
    language: str
    code: str
    line: int
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}: {self.section}"


def parse(page: Path) -> list[Block]:
    """All fenced blocks of a page, with the headings they stand under."""
    name = page.relative_to(ROOT).as_posix()
    blocks, section, opened, code, file = [], "", None, [], None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if opened is not None and line.strip() == "```":
            blocks.append(Block(name, section, opened[0], "\n".join(code), opened[1], file))
            opened = file = None
        elif opened is not None:
            code.append(line)
        elif line.startswith("```"):
            opened, code = (line[3:].strip(), number), []
        elif re.match(r"#+ ", line):
            section = line.lstrip("# ")
        elif line.strip():  # "in `name.py`," says that a block is a file
            named = re.search(r"in `(\w+\.py)`,$", line)
            file = named[1] if named else None
    assert opened is None, f"{name}: the block of line {opened} is never closed"
    return blocks


def commands(code: str) -> list[str]:
    """The single commands of a shell block."""
    lines = code.replace("\\\n", " ").splitlines()
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [command.strip() for line in lines for command in line.split("&&")]


SERVERS: list[subprocess.Popen[bytes]] = []
"""Those that the pages' commands have started."""

with socket.create_server(("127.0.0.1", 0)) as probe:
    FREE_PORT = str(probe.getsockname()[1])

BLOCKS = [block for page in PAGES for block in parse(page)]
RUNNABLE = [block for block in BLOCKS if block.language in ("python", "bash")]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory, sd1_folder: Path) -> Iterator[None]:
    """Works in a folder with nothing but the checkpoint that the pages take for granted, and the
    files that they show.

    What the blocks set process-wide doesn't reach other tests.
    """
    precision, backend = torch.get_float32_matmul_precision(), matplotlib.get_backend()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        folder = tmp_path_factory.mktemp("newcomer")
        patch.chdir(folder)
        (folder / "path" / "to").mkdir(parents=True)
        (folder / "path" / "to" / "stable-diffusion").symlink_to(sd1_folder)
        for block in BLOCKS:
            if block.file is not None:
                (folder / block.file).write_text(block.code)
        patch.setattr(registry, "_factories", dict(registry._factories))
        tables: tuple[dict[str, Any], ...] = (METHODS, ALGORITHMS)
        known = [dict(table) for table in tables]
        yield
        for server in SERVERS:
            server.kill()
            server.wait()
        for table, before in zip(tables, known, strict=True):
            table.clear()
            table.update(before)
    torch.set_float32_matmul_precision(precision)
    matplotlib.use(backend)


@pytest.fixture(scope="module")
def namespaces() -> dict[str, dict[str, Any]]:
    """The Python namespaces of the pages."""
    return {}


@pytest.fixture(scope="module")
def done() -> set[str]:
    """The commands that have been run."""
    return set()


def run_module(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m module options``, in this process: importing torch anew would take long."""
    _, _, name, *options = shlex.split(command)
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    for constant, value in SMALLER.get(name, {}).items():
        monkeypatch.setattr(module, constant, value)
    kind = f"{name} --resume" if "--resume" in options else name
    kind = f"{name} {options[0]}" if name == "benchmarks.leaderboard" else kind
    assert kind in QUICK, f"{command!r}: give {kind} its quick options in QUICK"
    monkeypatch.setattr(sys, "argv", [name, *options, *QUICK[kind].split()])
    try:
        status = module.main()
    except SystemExit as end:  # --help, or a mistake in the options
        status = end.code
    assert not status, f"{command!r} ended with status {status}"


def run_example(command: str) -> None:
    """``python examples/name.py options``, in this process."""
    _, path, *options = shlex.split(command)
    assert (ROOT / path).is_file(), f"{command!r}: no such example"
    assert path in QUICK, f"{command!r}: give {path} its quick options in QUICK"
    importlib.import_module(Path(path).stem).main([*options, *QUICK[path].split()])


def run_launched(command: str) -> None:
    """``torchrun … program options``, or accelerate's, with two processes, as it stands else.

    An example is started alone: its own test (tests/examples) launches it.
    """
    launcher, program, options = re.split(r" (-m agents\.train|examples/\S+)", command)
    if program.startswith("examples/"):
        run_example(f"python {program}{options}")
        return
    launcher = re.sub(r"(--nproc-per-node|--num_processes) \d+", r"\1 2", launcher)
    words = shlex.split(f"{launcher} {program}{options} {QUICK['agents.train']}")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    folder = Path(sys.executable).parent
    done = subprocess.run(
        [folder / words[0], *words[1:]],
        env={
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",  # two processes on one GPU are refused
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def run_server(command: str) -> None:
    """A command that serves until it is stopped: when all blocks have been run."""
    _, *words = shlex.split(command)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    server = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, env=environment)
    SERVERS.append(server)
    assert server.stdout is not None
    assert server.stdout.readline(), f"{command!r} ended"


def what_ci_does() -> set[str]:
    """The commands of .ci/run, without what keeps it quiet and its cores busy."""
    text = re.sub(r"\\\n +", "", (ROOT / ".ci" / "run").read_text())
    parallel = (" --numprocesses auto", " --dist loadfile", " --no-loadscope-reorder", " &")
    quiet = ("exec ", " --quiet", " --no-compile", ' "${@:2}"')
    left_out = (" --ignore tests/benchmarks", " --ignore tests/gpu")
    for option in (*quiet, *parallel, *left_out):
        text = text.replace(option, "")
    return {line.strip() for line in text.splitlines()}


def run_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command, or makes sure that it need not be run here."""
    if any(re.fullmatch(pattern, command) for pattern in NOT_RUN):
        return
    command = command.replace(PORT, FREE_PORT)
    if re.match(r"python -m (agents|benchmarks)\b", command):
        run_module(command, monkeypatch)
    elif command.startswith(("torchrun ", "accelerate launch ")):
        run_launched(command)
    elif command.startswith("python -m diffusion_gym.rewards.serve "):
        run_server(command)
    elif command.startswith("python examples/"):
        run_example(command)
    else:
        assert command in what_ci_does(), f"{command!r} is neither a module, nor in .ci/run"


@pytest.mark.slow
@pytest.mark.usefixtures("newcomer")
@pytest.mark.parametrize("block", RUNNABLE, ids=str)
def test_every_block_runs(
    block: Block,
    namespaces: dict[str, dict[str, Any]],
    done: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if block.language == "bash":
        for command in commands(block.code):
            if command not in done:
                run_command(command, monkeypatch)
            done.add(command)
    else:
        # The line numbers of a traceback are then those of the page.
        code = compile("\n" * block.line + block.code, block.page, "exec")
        exec(code, namespaces.setdefault(block.page, {"__name__": "__main__"}))


def test_the_pilots_tables_are_as_measured() -> None:
    results = sorted((ROOT / "benchmarks" / "results").glob("comparison-*.md"))
    measured = {line for path in results for line in path.read_text().splitlines()}
    page = (ROOT / "docs" / "comparison.md").read_text().partition("## With 256")[2]
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) > 30
    assert not set(rows) - measured


def test_the_pilots_gains_at_equal_evaluations_are_those_of_its_curves() -> None:
    rows: dict[str, list[str]] = {}
    for budget in (256, 512):
        text = (ROOT / "benchmarks" / "results" / f"comparison-{budget}.json").read_text()
        measured = json.loads(text)
        for task in measured["tasks"]:
            runs = [run for run in measured["runs"] if run["task"] == task]
            spent = min(run["curve"][-1]["denoiser_evaluations"] for run in runs)
            gains: dict[str, list[float]] = {}
            for run in runs:
                evaluations = [point["denoiser_evaluations"] for point in run["curve"]]
                rewards = [point["reward"] for point in run["curve"]]
                gain = np.interp(spent, evaluations, rewards) - rewards[0]
                gains.setdefault(run["method"], []).append(gain)
            for method, own in gains.items():
                least_most = f"[{min(own):+.3f}, {max(own):+.3f}]"
                rows.setdefault(method, []).append(f"{np.mean(own):+.3f} {least_most}")
    section = (ROOT / "docs" / "comparison.md").read_text().partition("## At equal")[2]
    lines = section.partition("## With 256")[0].splitlines()
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:2] == "| "]
    assert {name: [cell for cell in cells if cell] for name, *cells in found[2:]} == rows


def test_languages_are_known() -> None:
    """Those of code, and MyST's directives, which Sphinx checks."""
    languages = {block.language for block in BLOCKS if not block.language.startswith("{")}
    assert languages <= LANGUAGES, "mark plain text as ```text"


def test_the_two_commands_are_there() -> None:
    typed = [
        command
        for block in parse(README)
        if block.language == "bash"
        for command in commands(block.code)
    ]
    assert {'pip install -e ".[dev]"', "python -m agents.train", "pytest"} <= set(typed)
    assert 'pip install -e ".[dev]"' in what_ci_does()


def test_the_readme_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 130
    for block in parse(README):
        assert block.code.count("\n") < 15, f"{block} belongs into examples/"


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = prose(page)
    targets = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"(?:src|href)=\"([^\"]+)", text)
    for target in targets:
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(there), f"{target}: no such heading"


def test_every_page_is_reached() -> None:
    """From the README or from the site's first page, by a link or a list of pages."""
    lists = "\n".join(block.code for block in BLOCKS if block.language == "{toctree}")
    for page in (ROOT / "docs").glob("*.md"):
        if page.stem != "index":
            assert re.search(rf"^{page.stem}$", lists, flags=re.MULTILINE), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_nothing_is_left_to_fill_in(page: Path) -> None:
    assert not re.findall(r"\w*PLACEHOLDER\w*|\bTODO\b|\bTBD\b|\bXXX\b", page.read_text())


@pytest.mark.parametrize(
    ("page", "table"),
    [("docs/rewards.md", BUILT_IN), ("docs/shaping.md", SHAPINGS)],
)
def test_tables_name_what_there_is(page: str, table: Iterable[str]) -> None:
    text = (ROOT / page).read_text()
    assert not [name for name in table if f"`{name}`" not in text]


def test_papers_that_pages_name_are_to_be_cited() -> None:
    abstract = r"arxiv\.org/abs/(\d{4}\.\d{5})"
    named = {paper for page in PAGES for paper in re.findall(abstract, page.read_text())}
    assert len(named) > 8
    assert named <= set(re.findall(abstract, (ROOT / "CITATION.cff").read_text()))


def test_pre_commit_runs_what_ci_runs() -> None:
    hooks = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    ci = {command.split(" -")[0].removesuffix(" .") for command in what_ci_does()}
    assert hooks
    assert {hook.split(" -")[0] for hook in hooks} <= ci
    load_config(str(ROOT / ".pre-commit-config.yaml"))  # which raises for what is not valid
