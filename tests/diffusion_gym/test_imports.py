"""Importing the package is cheap, and its modules import one another in one direction only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diffusion_gym

ROOT = Path(diffusion_gym.__file__).parent

#: What each part of the package may import from the package: itself and what stands before it.
LAYERS = (
    ("errors", "registration"),
    (
        "scheduler_config",
        "denoising",
        "schedule",
        "flow_schedule",
        "samplers",
        "scenes",
        "prompts",
        "rewards",
        "models",
    ),
    ("episodes", "forking", "infos", "predictions", "prompt_table", "rendering"),
    ("reset_options", "spaces", "state", "task", "validation"),
    ("vector_env",),
    ("env",),
    ("wrappers", "reference", "checker"),
)
HEAVY = {"diffusers", "transformers"}
AGENTS_ONLY = {"stable_baselines3", "peft", "accelerate", "agents", "benchmarks"}


def modules():
    return {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}


def imported(path):
    """Full names of all modules that a file imports, except for type checking only."""
    names = set()
    pending = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        pending += ast.iter_child_nodes(node)
    return names


def part_of(module):
    """``diffusion_gym.models.loading`` → ``models``."""
    parts = module.split(".")
    return parts[1] if parts[0] == "diffusion_gym" and len(parts) > 1 else None


def test_importing_is_cheap():
    # The processor's time, which what else runs on the machine hardly changes.
    code = (
        "import time, sys; start = time.process_time(); import diffusion_gym; "
        "print(time.process_time() - start, 'torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    seconds = min(float(run.stdout.split()[0]) for run in runs)
    assert seconds < 0.5
    assert all(run.stdout.split()[1:] == ["False", "False"] for run in runs)


def test_every_public_name_is_there():
    for name in diffusion_gym.__all__:
        assert getattr(diffusion_gym, name) is not None
        assert name in dir(diffusion_gym)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = diffusion_gym.nothing


@pytest.mark.parametrize("name", modules())
def test_nothing_is_imported_from_above(name):
    own = part_of("diffusion_gym." + name.removesuffix(".py").replace("/", "."))
    if own == "__init__":
        return
    level = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    assert own in level, f"give {name} a place in LAYERS"
    for module in imported(modules()[name]):
        assert level.get(part_of(module), 0) <= level[own], f"{name} imports {module}"


@pytest.mark.parametrize("name", modules())
def test_heavy_libraries_are_imported_where_they_belong(name):
    roots = {module.split(".")[0] for module in imported(modules()[name])}
    assert not roots & AGENTS_ONLY
    if not name.startswith(("models/", "rewards/")):
        assert not roots & HEAVY


def test_agents_and_benchmarks_import_downwards():
    for path in sorted((ROOT.parent / "agents").rglob("*.py")):
        assert not any(name.split(".")[0] == "benchmarks" for name in imported(path)), path
