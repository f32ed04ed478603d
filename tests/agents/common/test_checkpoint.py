import copy
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import safetensors.torch
import torch
from gymnasium.vector import VectorWrapper
from small_agents import make_agent, make_env, weights
from stable_baselines3.common.callbacks import CallbackList
from starts import Start

from agents import train
from agents.common.checkpoint import load_policy, restore, save_checkpoint
from agents.common.checkpoint_folder import (
    FILES,
    FORMAT,
    STATE,
    SUMS,
    checkpoints_in,
    latest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
)
from agents.files import atomic, is_leftover
from agents.policy import UNetPolicy
from agents.ppo import DiffusionPPO
from agents.runs.callbacks import Checkpoints
from agents.runs.run_folder import RunFolder
from diffusion_gym.errors import DiffusionGymError, InvalidInputError

KINDS: list[dict[str, Any]] = [
    {},
    {"policy_kwargs": {"optimizer": "adamw_fused"}},
    {"policy_kwargs": {"lora_rank": 2}, "advantage": "prompt"},
    {
        "policy_kwargs": {
            "lora_rank": 2,
            "lora_targets": ["to_q", "to_v"],
            "optimizer": "adamw_fused",
            "optimizer_kwargs": {"amsgrad": True, "betas": (0.8, 0.95)},
        },
        "standardise_steps": "scale",
    },
]


@pytest.mark.parametrize("kind", KINDS, ids=["full", "full-fused", "lora", "fused"])
def test_a_resumed_run_equals_the_uninterrupted_one(kind: dict[str, Any], tmp_path: Path) -> None:
    whole = make_agent(**kind).learn(12)
    first = make_agent(**kind).learn(4)
    folder = save_checkpoint(first, tmp_path / "round-000001")
    resumed = DiffusionPPO.resume(folder, make_env())
    assert (resumed.rounds, resumed.num_timesteps, resumed.reward_queries) == (1, 4, 4)
    resumed.learn(8, reset_num_timesteps=False)
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.rounds == whole.rounds == 3
    assert resumed.policy.denoiser_evaluations == whole.policy.denoiser_evaluations
    assert resumed.advantage_estimator.state_dict() == whole.advantage_estimator.state_dict()


def test_a_loaded_agent_predicts_without_an_environment(tmp_path: Path) -> None:
    agent = make_agent().learn(4)
    agent.save(tmp_path / "agent.zip")
    loaded = DiffusionPPO.load(tmp_path / "agent.zip")
    observation = agent.env.reset()
    fresh = make_agent()
    fresh.policy.load_state_dict(
        {name: weight + 1 for name, weight in fresh.policy.state_dict().items()}
    )
    for deterministic in (True, False):
        for one in (agent, loaded, fresh):
            one.policy.generator.manual_seed(0)
        ours, theirs, others = (
            a.predict(observation, deterministic=deterministic)[0] for a in (agent, loaded, fresh)
        )
        assert (ours == theirs).all()
        assert (ours != others).any()


def test_an_agent_refuses_an_environment_of_another_model(tmp_path: Path) -> None:
    agent = make_agent()
    agent.model_spec["weights_hash"] = "0" * 64
    agent.save(tmp_path / "agent.zip")
    with pytest.raises(DiffusionGymError, match="was trained on"):
        DiffusionPPO.load(tmp_path / "agent.zip", env=make_env())


def test_a_damaged_agent_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "agent.zip"
    make_agent(policy_kwargs={"lora_rank": 2}).save(file)
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(DiffusionGymError, match="cannot load an agent from"):
        DiffusionPPO.load(file)


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    for text in ("{", '{"colour": "red"}'):
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(DiffusionGymError, match="expected the settings of a training run"):
            train.main(["--resume", str(tmp_path)])


@pytest.fixture(scope="module")
def env() -> Any:
    return make_env()


@pytest.fixture(scope="module")
def trained(env: Any) -> DiffusionPPO:
    return make_agent(env, policy_kwargs={"lora_rank": 2}, advantage="prompt").learn(4)


@pytest.fixture(scope="module")
def saved(trained: DiffusionPPO, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(trained, tmp_path_factory.mktemp("checkpoints") / "round-000001")


def copied(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to))


def sign(folder: Path) -> None:
    """Makes the sums anew, as who forges a checkpoint would."""
    names = [name for name in FILES if (folder / name).is_file()]
    command = ["sha256sum", *names]
    sums = subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout
    (folder / SUMS).write_bytes(sums)


# ------------------------------------------------------------------ what is in a checkpoint


def plain_attributes(agent: DiffusionPPO) -> dict[str, Any]:
    kinds = (int, float, str, type(None), list, dict)
    other = {
        "start_time",
        "_last_obs",
        "_last_original_obs",
        "stopping",
        "_counted_until",
    }  # this process's
    return {k: v for k, v in vars(agent).items() if isinstance(v, kinds) and k not in other}


def test_a_resumed_agent_has_every_number_of_the_first(saved: Path, trained: DiffusionPPO) -> None:
    """Whatever attribute somebody adds to the agent is missed here if it is not restored."""
    resumed = DiffusionPPO.resume(str(saved), make_env())
    for name, value in plain_attributes(trained).items():
        assert getattr(resumed, name) == value, name
    assert trained._n_updates > 0
    assert resumed.ep_info_buffer == trained.ep_info_buffer
    ours, theirs = (a.policy.optimizer.state_dict() for a in (resumed, trained))
    assert ours["param_groups"] == theirs["param_groups"]
    for number, entries in theirs["state"].items():
        for name, value in entries.items():
            assert torch.equal(ours["state"][number][name], value)


def test_the_sums_are_those_of_other_tools(saved: Path) -> None:
    assert {file.name for file in saved.iterdir()} == {*FILES, SUMS}
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=saved, check=True)


def test_everybody_may_read_what_a_new_file_lets_them(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    modes = {file.stat().st_mode for file in saved.iterdir()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def test_nothing_is_pickled_nor_unpickled(
    saved: Path, env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a pickle")

    for module, names in (
        (pickle, ("load", "loads", "Unpickler", "dump", "dumps", "Pickler")),
        (cloudpickle, ("load", "loads", "dump", "dumps")),
        (torch, ("load", "save")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    with pytest.raises(AssertionError, match="a pickle"):  # this is how the old ones were written
        make_agent(env).save(saved.parent / "agent.zip")
    agent = DiffusionPPO.resume(saved, env)
    save_checkpoint(agent, saved.parent / "round-000002")
    load_policy(saved)
    for file in saved.iterdir():
        assert b"cbuiltins" not in file.read_bytes()
        assert b":serialized:" not in file.read_bytes()


class Evil:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_folder_of_pickles_is_refused_unopened(env: Any, tmp_path: Path) -> None:
    folder, mark = tmp_path / "round-000001", tmp_path / "mark"
    folder.mkdir()
    for name in ("agent.zip", "state.pt", *FILES, SUMS):
        (folder / name).write_bytes(pickle.dumps(Evil(mark)))
    sums = (folder / SUMS).read_bytes()
    for signed in (False, True):
        if signed:
            sign(folder)
            assert (folder / SUMS).read_bytes() != sums
        for load in (lambda: load_policy(folder), lambda: DiffusionPPO.resume(folder, env)):
            with pytest.raises(InvalidInputError, match="expected a complete checkpoint"):
                load()
    assert not mark.exists()
    pickle.loads((folder / "agent.zip").read_bytes())
    assert mark.exists()


def test_schedules_are_asked_for_again(env: Any, tmp_path: Path) -> None:
    def rate(progress: float) -> float:
        return 1e-3 * progress

    def clip(progress: float) -> float:
        return 2e-3 + progress * 1e-3

    schedules = {"learning_rate": rate, "clip_range": clip}
    lora = {"policy_kwargs": {"lora_rank": 2}}
    whole = make_agent(make_env(), **schedules, **lora).learn(8)
    first = make_agent(make_env(), **schedules, **lora)
    first._total_timesteps = 8  # as after 4 of 8 images
    first.learn(4)
    folder = save_checkpoint(first, tmp_path / "round-000001")
    for functions, words in (
        ({}, r"no functions: .* \(learning_rate=…, clip_range=…\), got none"),
        ({"learning_rate": rate}, "got learning_rate"),
        ({**schedules, "colour": rate}, "colour"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            DiffusionPPO.resume(folder, env, **functions)
    resumed = DiffusionPPO.resume(folder, env, **schedules)
    assert (resumed.lr_schedule(0.25), resumed.clip_range(0.25)) == (rate(0.25), clip(0.25))
    assert resumed.constructor_arguments() == whole.constructor_arguments()


def test_a_number_is_no_function_to_ask_for(saved: Path, env: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"\(none\), got learning_rate"):
        DiffusionPPO.resume(saved, env, learning_rate=lambda _: 1e-3)


class OtherPolicy(UNetPolicy):
    """A user's own."""


class OtherAgent(DiffusionPPO):
    """A user's own."""


def test_classes_of_ones_own_are_named(env: Any, saved: Path, tmp_path: Path) -> None:
    agent = OtherAgent(OtherPolicy, env, samples_per_prompt=2, policy_kwargs={"lora_rank": 2})
    env.reset(seed=0)
    folder = save_checkpoint(agent, tmp_path / "round-000001")
    assert type(OtherAgent.resume(folder, env, OtherPolicy).policy) is OtherPolicy
    assert type(load_policy(folder, policy_class=OtherPolicy)) is OtherPolicy
    for load in (lambda: load_policy(folder), lambda: OtherAgent.resume(folder, env)):
        with pytest.raises(InvalidInputError, match="of a UNetPolicy, got that of a OtherPolicy"):
            load()
    with pytest.raises(InvalidInputError, match="of a OtherAgent, got that of a DiffusionPPO"):
        OtherAgent.resume(saved, env)


def test_what_no_file_can_hold_is_named(env: Any, tmp_path: Path) -> None:
    agent = make_agent(env, policy_kwargs={"optimizer_kwargs": {"weight_decay": 0.0}})
    env.reset(seed=0)
    agent.policy_kwargs["optimizer_kwargs"]["own"] = object()
    with pytest.raises(
        InvalidInputError, match=r"got object at .*policy_kwargs.optimizer_kwargs.own"
    ):
        save_checkpoint(agent, tmp_path / "round-000001")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ the policy alone


def test_a_policy_is_loaded_without_an_environment(saved: Path, trained: DiffusionPPO) -> None:
    policy = load_policy(str(saved))
    observation, _ = make_env().reset(seed=0)
    ours, theirs = (p.act(observation, deterministic=True) for p in (policy, trained.policy))
    assert torch.equal(ours.actions, theirs.actions)
    assert policy.observation_space == trained.policy.observation_space
    assert policy.action_space == trained.policy.action_space


def test_sampling_needs_no_state_of_the_training(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path / "weights")
    for name in ("optimizer.safetensors", "state.safetensors"):
        (folder / name).unlink()
    load_policy(folder)


def test_other_weights_under_the_models_name_are_refused(sd1_folder: Path, tmp_path: Path) -> None:
    """The folder has been replaced since by another model of the same kind."""
    model = copied(sd1_folder, tmp_path / "model")
    options = {"prompts": ["a cat", "a dog"], "model": str(model)}
    agent = make_agent(make_env(**options), policy_kwargs={"lora_rank": 2})
    agent.env.vector_env.reset(seed=0)
    folder = save_checkpoint(agent, tmp_path / "round-000001")
    load_policy(folder)
    (file,) = (model / "unet").glob("*.safetensors")
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file({k: v + 1 for k, v in tensors.items()}, file, {"format": "pt"})
    with pytest.raises(InvalidInputError, match=r"was trained on .*/model' with the weights"):
        load_policy(folder)
    with pytest.raises(InvalidInputError, match=r"was trained on .*/model' with the weights"):
        DiffusionPPO.resume(folder, make_env(**options))


# ------------------------------------------------------------------ damaged and foreign ones


def one_paragraph(error: InvalidInputError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 1200


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_every_damaged_byte_is_found(name: str, saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path / "damaged")
    whole = (folder / name).read_bytes()
    rng = random.Random(name)
    variants = [whole[:n] for n in (0, 1, 8, len(whole) // 2, len(whole) - 1)]
    for _ in range(12):
        place = rng.randrange(len(whole))
        variants.append(
            whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :]
        )
    variants.append(whole + b"\0")
    variants.append(b"\xff" * len(whole))
    for variant in variants:
        (folder / name).write_bytes(variant)
        with pytest.raises(InvalidInputError, match="expected a complete checkpoint in") as found:
            read_checkpoint(folder)
        one_paragraph(found.value)
        if name not in ("state.safetensors", "optimizer.safetensors", SUMS):
            with pytest.raises(InvalidInputError, match="expected a complete checkpoint in"):
                load_policy(folder)
    (folder / name).unlink()
    with pytest.raises(InvalidInputError, match=f"No such file.*{name}"):
        read_checkpoint(folder)
    (folder / name).mkdir()
    with pytest.raises(InvalidInputError, match=f"Is a directory.*{name}"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'{{"format": {FORMAT + 1}}}', f"of format {FORMAT} in .*, got format {FORMAT + 1}"),
        ("{}", "got format None"),
        ("[]", "got format None"),
        (f'{{"format": {FORMAT}}}', "expected 'agent' to be an object"),
        ("[" * 10**5, "expected a complete checkpoint"),
        ("1" * 10**5, "expected a complete checkpoint"),
        (f'{{"format": {FORMAT}, "agent": ' + '{"a": ' * 100 + "1" + "}" * 101, "64 levels"),
        (f'{{"format": {FORMAT}, "agent": {{"$call": "os.system"}}}}', "unknown tag '.call'"),
    ],
)
def test_a_foreign_state_is_refused(text: str, words: str, saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path / "foreign")
    (folder / STATE).write_text(text)
    sign(folder)
    with pytest.raises(InvalidInputError, match=words) as found:
        read_checkpoint(folder)
    one_paragraph(found.value)


def places(tree: Any) -> Iterator[tuple[Any, ...]]:
    """Paths to everything inside a tree; of long lists, the first three entries."""
    items = tree.items() if isinstance(tree, dict) else ()
    if isinstance(tree, list):
        items = list(enumerate(tree))[:3]
    for key, value in items:
        yield (key,)
        yield from ((key, *rest) for rest in places(value))


REPLACEMENTS: tuple[Any, ...] = (
    *(None, "x", -1, 1.5, True, [], {}, [1], {"x": 1}, 10**400),
    *({"$tensor": "nowhere"}, {"$tuple": 5}, {"$pairs": [1]}, {"$float": "x"}),
    *({"$array": [1], "dtype": "object", "shape": [1]}, {"$array": ["x"], "dtype": "int64"}),
)


def forgeries(content: dict[str, Any], part: str, count: int) -> Iterator[dict[str, Any]]:
    """The content of a state file with one thing in it missing, or something else."""
    rng = random.Random(part)
    found = [(part,), *((part, *place) for place in places(content[part]))]
    for place in [rng.choice(found) for _ in range(count)]:
        forged = copy.deepcopy(content)
        inner: Any = forged
        for key in place[:-1]:
            inner = inner[key]
        if rng.random() < 0.25:
            del inner[place[-1]]
        else:
            inner[place[-1]] = copy.deepcopy(rng.choice(REPLACEMENTS))
        yield forged


@pytest.mark.slow
@pytest.mark.parametrize(("part", "count"), [("agent", 30), ("state", 120), ("optimizer", 50)])
def test_a_forged_state_is_refused_in_words_or_fits(
    part: str, count: int, saved: Path, tmp_path: Path
) -> None:
    """Signed anew, so that only what is in it can be wrong; no other error than ours comes up."""
    folder = copied(saved, tmp_path / "forged")
    content = json.loads((folder / STATE).read_text())
    agent = make_agent(make_env(), policy_kwargs={"lora_rank": 2}, advantage="prompt")
    refused = 0
    for forged in forgeries(content, part, count):
        (folder / STATE).write_text(json.dumps(forged))
        sign(folder)
        try:
            if part == "agent":
                DiffusionPPO.resume(folder, agent.env)
            else:
                restore(agent, read_checkpoint(folder))
        except InvalidInputError as error:
            one_paragraph(error)
            refused += 1
    assert refused > count / 2
    restore(agent, read_checkpoint(saved))


@pytest.mark.parametrize("name", ["weights", "optimizer", "state"])
def test_forged_tensors_are_refused(name: str, saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path / "forged")
    file = folder / f"{name}.safetensors"
    tensors = safetensors.torch.load_file(file)
    agent = make_agent(make_env(), policy_kwargs={"lora_rank": 2}, advantage="prompt")
    largest = max(tensors, key=lambda key: tensors[key].numel())
    other = {
        "missing": {k: v for k, v in tensors.items() if k != largest},
        "shape": tensors | {largest: tensors[largest].flatten()[1:].clone()},
        "type": tensors | {largest: tensors[largest].to(torch.complex64)},
        "none": {},
    }
    for what, forged in other.items():
        safetensors.torch.save_file(forged, file)
        sign(folder)
        if (name, what) == ("optimizer", "type"):
            continue  # torch casts it
        with pytest.raises(InvalidInputError) as found:
            restore(agent, read_checkpoint(folder))
        one_paragraph(found.value)


class Counting(VectorWrapper):
    """A wrapper with a state."""

    def state_dict(self) -> dict[str, Any]:
        return {"count": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def test_another_environment_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"with the wrappers \[\], .* has \['Counting'\]"):
        DiffusionPPO.resume(saved, Counting(make_env()))
    with pytest.raises(InvalidInputError, match="latents' shape"):
        DiffusionPPO.resume(saved, make_env(8))
    with pytest.raises(InvalidInputError, match="number of steps"):
        DiffusionPPO.resume(saved, make_env(num_inference_steps=4))
    content = json.loads((saved / STATE).read_text())
    folder = copied(saved, tmp_path / "elsewhere")
    content["agent"]["device"] = "cuda"
    (folder / STATE).write_text(json.dumps(content))
    sign(folder)
    with pytest.raises(InvalidInputError, match="the run was on cuda, the environment is on cpu"):
        DiffusionPPO.resume(folder, make_env())


# ------------------------------------------------------------------ which folders are ours


def test_old_checkpoints_go_and_partial_ones_are_never_seen(tmp_path: Path) -> None:
    for name in ("round-000001", "round-000002", "round-000003", ".round-000004.partial"):
        (tmp_path / name).mkdir()
    assert latest_checkpoint(tmp_path).name == "round-000003"
    prune_checkpoints(tmp_path, keep=2)
    assert latest_checkpoint(tmp_path).name == "round-000003"
    assert not (tmp_path / "round-000001").exists()
    with pytest.raises(DiffusionGymError, match="found none"):
        latest_checkpoint(tmp_path / "nowhere")


def test_only_our_own_names_are_checkpoints(tmp_path: Path) -> None:
    """Copies that users keep are neither pruned nor resumed from, whatever they are called."""
    theirs = (
        "round-000002-backup",
        "round-best",
        "round-2",
        "round-",
        "Round-000009",
        "round-00000２",
    )
    for name in (*theirs, "round-000001", "round-999999", "round-1000000"):
        (tmp_path / name).mkdir()
    (tmp_path / "round-2000000").touch()
    names = [folder.name for folder in checkpoints_in(tmp_path)]
    assert names == ["round-000001", "round-999999", "round-1000000"]
    prune_checkpoints(tmp_path, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {*theirs, "round-1000000", "round-2000000"}
    prune_checkpoints(tmp_path, keep=5)
    assert latest_checkpoint(tmp_path).name == "round-1000000"


# ------------------------------------------------------------------ killed at every operation

OPERATIONS = ("open", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "chmod", "scandir")


@pytest.fixture
def before_each_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[list[Callable[[], None]]]:
    """Calls what is put into the list before every operation on files."""
    watchers: list[Callable[[], None]] = []

    def watched(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def operation(*arguments: object, **options: object) -> object:
            for watcher in list(watchers):
                watchers.clear()  # what it does itself is not watched
                watcher()
                watchers.append(watcher)
            return real(*arguments, **options)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(os, name, watched(name))
    yield watchers
    monkeypatch.undo()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.slow
def test_killed_before_any_operation_a_run_goes_on_to_the_same_weights(
    before_each_operation: list[Callable[[], None]], tmp_path: Path
) -> None:
    """What is on the disk before each operation is what a process killed there leaves behind."""
    folder, images = tmp_path / "checkpoints", tmp_path / "images"
    options = {"policy_kwargs": {"lora_rank": 2}, "advantage": "prompt"}
    agent = make_agent(make_env(), **options)
    checkpoints = Checkpoints(folder, every=1, minutes=0, keep=2)
    kills = 0

    def image() -> None:
        nonlocal kills
        kills += 1
        if folder.is_dir():
            shutil.copytree(folder, images / f"{kills:04d}")

    before_each_operation.append(image)
    agent.learn(12, callback=CallbackList([checkpoints]))
    before_each_operation.clear()
    assert kills >= 100
    seen, kept = [], {}
    for killed in sorted(images.iterdir()):
        found = checkpoints_in(killed)
        for checkpoint in found:  # each is whole, not only the newest
            kept.setdefault(checkpoint.name, checkpoint)
            assert contents(checkpoint) == contents(kept[checkpoint.name])
        seen.append(found[-1].name if found else "none")
        with atomic(killed / "next") as partial:
            partial.touch()
        assert not any(map(is_leftover, killed.iterdir()))
    assert list(dict.fromkeys(seen)) == ["none", *(f"round-00000{n}" for n in range(4))]
    for checkpoint in kept.values():
        resumed = DiffusionPPO.resume(checkpoint, make_env())
        if resumed.num_timesteps < 12:
            resumed.learn(12 - resumed.num_timesteps, reset_num_timesteps=False)
        assert torch.equal(weights(resumed), weights(agent)), checkpoint


# ------------------------------------------------------------------ killed from outside

COMMAND = (
    "--images 16 --num-envs 4 --samples-per-prompt 2 --num-inference-steps 3 --batch-size 6 "
    "--reward jpeg_compressibility --eval-prompts 2 --eval-samples 1 --checkpoint-every 1 --seed 7"
).split()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    return final_weights(run_to_the_end(tmp_path_factory.mktemp("runs") / "whole"))


def run_to_the_end(folder: Path) -> Path:
    assert train.main([*COMMAND, "--output", str(folder)]) == 0
    return folder


def final_weights(folder: Path) -> torch.Tensor:
    checkpoint = RunFolder.open(folder).checkpoint
    assert checkpoint.name == "round-000004"
    parameters = load_policy(checkpoint).trainable_parameters()
    return torch.cat([p.detach().flatten() for p in parameters])


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str] | Start) -> None:
    deadline = time.monotonic() + 120
    while not any(folder.glob(pattern)):
        assert process.poll() is None, f"no {pattern}: {process.stderr and process.stderr.read()}"
        assert time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.0005)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [".round-000002.*.partial", "round-000001"])
def test_a_killed_run_resumes_to_the_same_weights(
    moment: str, uninterrupted: torch.Tensor, tmp_path: Path
) -> None:
    """Killed while a checkpoint is being written, and in the middle of a round."""
    folder = tmp_path / "killed"
    process = Start("-m", "agents.train", *COMMAND, "--output", folder)
    wait_for(moment, folder / "checkpoints", process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    assert train.main(["--resume", str(folder)]) == 0
    assert torch.equal(final_weights(folder), uninterrupted)
    rounds = [row["count/rounds"] for row in RunFolder.open(folder).metrics()]
    assert rounds == [1, 2, 3, 4]


EXIT_AT = """
import os, sys

number, place = int(sys.argv[1]), os.path.join(sys.argv[2], "checkpoints")
count = 0

def guarded(real):
    def operation(*arguments, **options):
        global count
        if any(isinstance(a, (str, os.PathLike)) and place in os.fspath(a) for a in arguments):
            count += 1
            if count == number:
                os._exit(9)
        return real(*arguments, **options)
    return operation

for name in ("open", "rename", "replace", "unlink", "rmdir", "mkdir", "chmod", "scandir"):
    setattr(os, name, guarded(getattr(os, name)))
from agents import train
sys.exit(train.main(sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 17, 40, 71, 90])
def test_a_run_that_exits_at_an_operation_resumes_to_the_same_weights(
    number: int, uninterrupted: torch.Tensor, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    process = Start("-c", EXIT_AT, number, folder, *COMMAND, "--output", folder)
    assert process.wait() == 9, process.rest()
    assert train.main(["--resume", str(folder)]) == 0
    assert torch.equal(final_weights(folder), uninterrupted)


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(uninterrupted: torch.Tensor, tmp_path: Path) -> None:
    folder = tmp_path / "interrupted"
    command = [sys.executable, "-m", "agents.train", *COMMAND, "--output", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for("round-000001", folder / "checkpoints", process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in output
    assert "Traceback" not in errors
    assert train.main(["--resume", str(folder)]) == 0
    assert torch.equal(final_weights(folder), uninterrupted)
