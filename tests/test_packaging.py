"""What the wheel holds and asks for, and that pyproject.toml tells the truth about imports."""

import ast
import email
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import hatchling.build
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIGURATION["project"]
EXTRAS = PROJECT["optional-dependencies"]
EMBEDDED = "diffusion_gym/emoji64"


def requirements(*groups):
    """The requirements of the core, ``""``, and of extras; without those on the package itself."""
    texts = [text for group in groups for text in (EXTRAS[group] if group else core())]
    parsed = [Requirement(text) for text in texts]
    return [one for one in parsed if canonicalize_name(one.name) != "diffusion-gym"]


def core():
    return PROJECT["dependencies"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built here and now without network."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        name = hatchling.build.build_wheel(str(folder))
    return folder / name


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_brings_no_package_but_its_own(wheel, names):
    assert wheel.name == f"diffusion_gym-{PROJECT['version']}-py3-none-any.whl"
    tops = {name.split("/")[0] for name in names}
    assert tops == {"diffusion_gym", f"diffusion_gym-{PROJECT['version']}.dist-info"}
    assert not [name for name in names if "__pycache__" in name]


def test_every_module_is_in_the_wheel(names):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "diffusion_gym").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert "diffusion_gym/py.typed" in names


def test_the_embedded_model_is_in_the_wheel_with_its_licences(wheel, names):
    expected = {
        *(f"data/pipeline/{part}/config.json" for part in ("unet", "vae", "text_encoder")),
        *(f"data/pipeline/{p}/diffusion_pytorch_model.safetensors" for p in ("unet", "vae")),
        "data/pipeline/text_encoder/model.safetensors",
        "data/pipeline/tokenizer/tokenizer.json",
        "data/pipeline/scheduler/scheduler_config.json",
        "data/pipeline/model_index.json",
        "data/clip/model.safetensors",
        "data/verifier/model.safetensors",
        *("data/objects.json", "data/backgrounds.json", "LICENSES.md", "MODEL_CARD.md"),
    }
    assert names >= {f"{EMBEDDED}/{name}" for name in expected}
    licences = f"diffusion_gym-{PROJECT['version']}.dist-info/licenses"
    assert names >= {f"{licences}/LICENSE", f"{licences}/{EMBEDDED}/LICENSES.md"}
    with zipfile.ZipFile(wheel) as archive:
        for name in expected:
            packed = archive.getinfo(f"{EMBEDDED}/{name}")
            assert packed.file_size == (ROOT / EMBEDDED / name).stat().st_size > 0
            assert packed.external_attr >> 16 & 0o444 == 0o444, f"{name}: not everybody may read it"


def test_the_wheel_is_small(wheel):
    assert 10e6 < wheel.stat().st_size < 30e6


def test_the_metadata(metadata):
    assert metadata["Name"] == "diffusion-gym"
    assert metadata["Version"] == PROJECT["version"]
    assert set(metadata.get_all("Provides-Extra")) == {
        "train",
        "rewards",
        "remote",
        "video",
        "wandb",
        "bench",
        "leaderboard",
        "dev",
    }
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0 AND MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys, gymnasium, diffusion_gym\n"
        "env = gymnasium.make('DiffusionT2I-v0')\n"
        "observation, info = env.reset(seed=0)\n"
        "assert observation in env.observation_space\n"
        "assert not {'agents', 'benchmarks'} & sys.modules.keys()\n"
        "print(diffusion_gym.__file__, env.unwrapped.model.folder)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(tmp_path / "site")) for path in done.stdout.split())


def third_party_imports(folder):
    """Distribution → files that import from it, found by reading the code."""
    distributions = importlib.metadata.packages_distributions()
    own = {"diffusion_gym", "agents", "benchmarks"}
    for top in ("tests", "examples"):  # tests' helpers, and the examples that they run
        own |= {path.stem for path in (ROOT / top).rglob("*.py")}
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for top in {module.split(".")[0] for module in modules} - own:
                if top in sys.stdlib_module_names:
                    continue
                names = distributions.get(top, [f"{top} (not installed)"])
                found.setdefault(canonicalize_name(names[0]), set()).add(path.relative_to(ROOT))
    return found


@pytest.mark.parametrize(
    ("folder", "groups"),
    [
        ("diffusion_gym", ["", "rewards", "remote"]),
        ("agents", ["", "train", "video", "wandb"]),
        ("benchmarks", ["", "train", "rewards", "bench", "leaderboard"]),
    ],
)
def test_every_import_is_declared(folder, groups):
    imported = third_party_imports(folder)
    assert {"torch", "numpy"} <= imported.keys()
    declared = {canonicalize_name(one.name) for one in requirements(*groups)}
    assert not {name: files for name, files in imported.items() if name not in declared}


def test_only_rewards_need_extras():
    declared = {canonicalize_name(one.name) for one in requirements("")}
    for name, files in third_party_imports("diffusion_gym").items():
        if name not in declared:
            assert all(file.parts[1] == "rewards" for file in files), (name, files)


def test_dev_is_everything():
    assert Requirement(EXTRAS["dev"][0]).extras == EXTRAS.keys() - {"dev"}
    assert set(CONFIGURATION["build-system"]["requires"]) <= set(EXTRAS["dev"])
    tests = third_party_imports("tests") | third_party_imports("examples")
    declared = {canonicalize_name(one.name) for one in requirements("", *EXTRAS)}
    transitive = {"packaging", "tensordict", "cloudpickle"}  # of pytest, torchrl, gymnasium
    assert not tests.keys() - declared - transitive


def test_bounds_are_lower_bounds():
    for one in requirements("", *EXTRAS):
        assert [bound.operator for bound in one.specifier] == [">="], one


def test_the_oldest_versions_tested_are_the_lower_bounds():
    """Of all that the code imports; dev's own tools may be as new as they like."""
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    tested = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    declared = {
        canonicalize_name(one.name): next(iter(one.specifier)).version
        for one in requirements("", *(EXTRAS.keys() - {"dev"}))
    }
    assert tested.keys() == declared.keys()
    for name, pin in tested.items():
        assert re.fullmatch(r"==[\d.]+", pin), name
        assert Version(pin.removeprefix("==")) == Version(declared[name]), name
