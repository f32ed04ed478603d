"""The architecture: what imports what, in every folder; importing the package is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diffusion_gym

ROOT = Path(diffusion_gym.__file__).parents[1]

#: What each folder holds, in the order in which it may import: only from what stands before. That
#: no two names share a place makes circles impossible.
ORDER = {
    "": ("diffusion_gym", "agents", "benchmarks"),
    "diffusion_gym": (
        *("errors", "checks", "parsing", "registration", "images", "emoji64", "schedules"),
        *("prompts", "models", "reference", "rewards", "envs", "wrappers"),
    ),
    "diffusion_gym.emoji64": ("folder", "scenes", "facts", "verifier"),
    "diffusion_gym.schedules": (
        *("diffusers_config", "base", "ddim", "flow", "flow_sde", "flow_cps", "registry"),
    ),
    "diffusion_gym.prompts": (
        *("prompt_set", "animals", "b2_templates", "emoji", "files", "loading"),
    ),
    "diffusion_gym.models": (
        *("precision", "options", "quiet", "embedded", "embedding", "denoiser", "guidance"),
        *("text_encoders", "architectures", "checkpoint", "single_file", "hub", "added_files"),
        *("own_vae", "fused_lora", "composed", "decoder", "consistency", "shared", "model"),
        "loading",
    ),
    "diffusion_gym.models.architectures": (
        *("base", "stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3"),
    ),
    "diffusion_gym.rewards": (
        *("base", "options", "isolation", "networks", "composite", "jpeg", "house_style"),
        *("scene_alignment", "clip_score", "aesthetic", "image_reward", "remote", "builtin"),
        *("registry", "server", "serve"),
    ),
    "diffusion_gym.rewards.remote": (
        *("protocol", "request", "answer", "client", "sharing", "reward"),
    ),
    "diffusion_gym.rewards.networks": (
        *("weights", "preprocessing", "linear_head", "clip", "open_clip", "image_reward"),
    ),
    "diffusion_gym.envs": (
        *("state", "infos", "config", "_forking", "_one_thread", "spaces", "_prompt_table"),
        *("_episodes", "_requests", "_reports", "unscored", "vector_env", "env", "checker"),
    ),
    "diffusion_gym.wrappers": (
        *("hindsight", "base_env", "shaping", "credit", "sparse", "uniform"),
        *("noise_aware", "reward_history", "b2", "coca"),
    ),
    "agents": (
        *("files", "policy", "common", "ppo", "nft", "evaluation", "runs", "train", "sample"),
        *("evaluate", "report"),
    ),
    "agents.policy": (
        *("config", "optimizers", "precision", "lora", "unet_policy", "second_weights", "export"),
        "model_spec",
    ),
    "agents.common": (
        *("advantages", "sb3_vec_env", "arguments", "trees", "processes", "checkpoint_folder"),
        *("checkpoint", "round_config", "episodes", "rollout", "overlap", "figures"),
        *("surrogate", "image_algorithm"),
    ),
    "agents.ppo": (
        *("config", "buffer", "rollout", "standardisation", "update", "ppo", "step_rewards"),
    ),
    "agents.nft": ("config", "buffer", "losses", "rollout", "nft"),
    "agents.evaluation": ("diversity", "image_metrics", "evaluation", "pictures", "film"),
    "agents.runs": (
        *(
            "presets",
            "algorithms",
            "methods",
            "named_code",
            "own_parts",
            "recommended",
            "settings",
            "record",
            "run_folder",
            "start",
            "builders",
        ),
        *("screen", "pictures", "boards", "tensorboard", "weights_and_biases", "callbacks"),
        *("live", "comparison", "page", "report", "training", "cli"),
    ),
    "agents.runs.page": ("charts", "repeat", "document"),
    "agents.runs.presets": (),
    "benchmarks": (
        *("tables", "destination", "bare_loop", "versus_bare_loop", "sized", "memory", "emoji64"),
        *("step_signal", "leaderboard", "throughput", "gpu_proof"),
    ),
    "benchmarks.sized": ("networks", "checkpoints"),
    "benchmarks.memory": ("tracing", "estimate", "__main__"),
    "benchmarks.throughput": (
        *("machine", "jobs", "bare", "rounds", "growth", "report", "__main__"),
    ),
    "benchmarks.gpu_proof": ("parts", "report", "__main__"),
    "benchmarks.emoji64": (
        *("icons", "sprites", "scenes", "captions", "composer", "networks", "sampler"),
        *("sampling", "pictures", "training", "train_clip", "train_autoencoder"),
        *("train_denoiser", "train_verifier", "measures", "export", "evaluate", "recipe"),
        "__main__",
    ),
    "benchmarks.leaderboard": (
        *("methods", "protocol", "tuning", "jobs", "record", "results", "shapings", "strips"),
        *("runner", "matrix", "live", "reproduce", "check", "statistics", "report", "__main__"),
    ),
    "benchmarks.leaderboard.statistics": (
        *("intervals", "significance", "target", "ranks", "pareto", "coverage"),
    ),
    "benchmarks.leaderboard.report": (
        *("inputs", "figures", "reading", "markdown", "pictures", "page", "__main__"),
    ),
    "benchmarks.step_signal": (
        *("moments", "weightings", "gradients", "report", "picture", "samplers", "__main__"),
    ),
}
HEAVY = {"diffusers", "transformers"}
AGENTS_ONLY = {"stable_baselines3", "peft", "accelerate"}


def modules():
    """Every module of the project by its full name; a package's `__init__` by the package's."""
    files = (path for top in ORDER[""] for path in sorted((ROOT / top).rglob("*.py")))
    names = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in files
    }
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


MODULES = modules()


def imported(path):
    """Full names of all that a file imports, except for type checking only."""
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


def where_ways_part(module, other):
    """``a.b.c`` and ``a.d.e`` → ``a``, ``b``, ``d``; nothing where one lies inside the other."""
    own, their = module.split("."), other.split(".")
    shared = 0
    while shared < min(len(own), len(their)) and own[shared] == their[shared]:
        shared += 1
    if shared == len(own) or shared == len(their):
        return None
    return ".".join(own[:shared]), own[shared], their[shared]


def test_everything_has_its_place():
    found = {folder: set() for folder in ORDER}
    for name, path in MODULES.items():
        folder, _, part = name.rpartition(".")
        found[folder].add(part)
        if path.name == "__init__.py":
            assert name in ORDER, f"give the folder {name} an order"
    assert found == {folder: set(parts) for folder, parts in ORDER.items()}
    assert all(len(set(parts)) == len(parts) for parts in ORDER.values())


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name):
    tops = tuple(f"{top}." for top in ORDER[""])
    for module in imported(MODULES[name]):
        ways = where_ways_part(name, module) if f"{module}.".startswith(tops) else None
        if ways is not None:
            folder, own, other = ways
            order = ORDER[folder]
            if other in order:  # else a name that a package hands on
                assert order.index(other) < order.index(own), f"{name} imports {module}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("diffusion_gym")])
def test_heavy_libraries_are_imported_where_they_belong(name):
    roots = {module.split(".")[0] for module in imported(MODULES[name])}
    assert not roots & AGENTS_ONLY
    if not name.startswith(("diffusion_gym.models", "diffusion_gym.rewards")):
        assert not roots & HEAVY


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


@pytest.mark.parametrize("package", [name for name in ORDER if name])
def test_packages_hand_on_what_they_have(package):
    module = __import__(package, fromlist=["__all__"])
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None
