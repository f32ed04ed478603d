"""Settings shared by every test."""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# Read when the libraries are imported, hence set here, before any test module imports them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The tests' batches are small: more threads gain little, and wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# What a busy machine takes says nothing of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A million objects of the libraries stay until the end: looking for garbage among them, again and
# again, takes a tenth of the time.
gc.disable()


def pytest_collection_finish() -> None:
    """What has been imported is not searched for garbage; what the tests make is, as usual."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end no worker is left alone with one of them."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def registered_rewards() -> Iterator[None]:
    """Forgets the rewards that a test registers."""
    from diffusion_gym.rewards import registry

    before = dict(registry._factories)
    yield
    registry._factories.clear()
    registry._factories.update(before)


def small_checkpoint(kind: str) -> Callable[[pytest.TempPathFactory], Path]:
    """A fixture: the folder of a small model of a kind, made once; tests must not change it."""

    def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
        import checkpoints

        save: Callable[[Path], Path] = getattr(checkpoints, f"save_{kind}")
        return save(tmp_path_factory.mktemp("checkpoints") / kind)

    return pytest.fixture(scope="session", name=f"{kind}_folder")(folder)


sd1_folder = small_checkpoint("sd1")
sd2_folder = small_checkpoint("sd2")
sdxl_folder = small_checkpoint("sdxl")
sd3_folder = small_checkpoint("sd3")
