"""Policies of every kind of model, in every precision, with and without LoRA, guidance, …"""

from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from small_agents import STEPS, make_agent, make_env, weights
from torch import Tensor

from agents.common.checkpoint import save_checkpoint
from agents.policy import UNetPolicy
from agents.policy.lora import ATTENTION_LAYERS, JOINT_ATTENTION_LAYERS
from agents.ppo import DiffusionPPO
from diffusion_gym.errors import DiffusionGymError

# torch 2.8's float16 kernels for CPUs round differently where gradients are recorded; the latents
# of random weights, which nothing clips, grow large enough for the third digit to show it.
OLD_FLOAT16 = 5e-3 if Version(torch.__version__) < Version("2.9") else 0

PROMPTS = ["a cat", "a dog", "an apple", "grapes"]
MODELS = ["sd1", "sdxl", "sd3"]
PRECISIONS = ["float32", "bfloat16", "float16"]


@pytest.fixture(scope="module")
def envs(request: pytest.FixtureRequest) -> Any:
    """Environments by model and precision of its frozen networks, each made once."""
    made: dict[tuple[str, str], Any] = {}

    def env(model: str, dtype: str = "float32") -> Any:
        if (model, dtype) not in made:
            folder = request.getfixturevalue(f"{model}_folder")
            made[model, dtype] = small_env(folder, dtype=dtype)
        return made[model, dtype]

    return env


def small_env(folder: Path, **kwargs: Any) -> Any:
    return make_env(4, model=str(folder), prompts=PROMPTS, num_inference_steps=STEPS, **kwargs)


def make_policy(env: Any, **options: Any) -> UNetPolicy:
    base = env.unwrapped
    spaces = base.single_observation_space, base.single_action_space
    model = base.model.share()
    return UNetPolicy(*spaces, lambda _: 1e-3, model=model, schedule=base.schedule, **options)


def disturb(policy: UNetPolicy) -> None:
    """Fresh LoRA adapters do nothing; a ratio of them would be 1 for free."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
@pytest.mark.parametrize(("model", "precision"), list(product(MODELS, PRECISIONS)))
def test_ratio_is_exactly_one(
    envs: Any, model: str, precision: str, rank: int, guidance: float, checkpointing: bool
) -> None:
    env = envs(model, precision)
    policy = make_policy(
        env, lora_rank=rank, guidance=guidance, gradient_checkpointing=checkpointing
    )
    disturb(policy)
    observation, _ = env.reset(seed=0)
    for _ in range(policy.schedule.stochastic.sum()):
        old = policy.act(observation)
        step = policy.transition(*policy.conditions(observation))
        log_prob = policy.log_prob(old.actions, step)
        assert log_prob.requires_grad
        assert {t.dtype for t in (old.actions, log_prob, step.mean)} == {torch.float32}
        assert log_prob.isfinite().all()
        ratio = (log_prob.detach() - old.log_prob).exp()
        assert (ratio - 1).abs().max() <= (OLD_FLOAT16 if precision == "float16" else 0)
        observation = env.step(old.actions)[0]


def gradients(policy: UNetPolicy, observation: dict[str, Tensor]) -> tuple[list[Tensor], int]:
    """Of a log-probability, and the bytes that were kept to compute them."""
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step = policy.transition(*policy.conditions(observation))
        loss = policy.log_prob(observation["latent"], step).mean()
    for parameter in policy.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    return list(torch.autograd.grad(loss, policy.trainable_parameters())), sum(kept.values())


@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
@pytest.mark.parametrize("model", MODELS)
def test_checkpointing_saves_memory_and_changes_no_gradient(
    envs: Any, model: str, rank: int
) -> None:
    env = envs(model)
    observation, _ = env.reset(seed=0)
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        policy = make_policy(env, lora_rank=rank, gradient_checkpointing=checkpointing)
        disturb(policy)
        assert not any(module.training for module in policy.modules())
        found.append(gradients(policy, observation))
    (plain, plain_bytes), (checkpointed, checkpointed_bytes) = found
    assert checkpointed_bytes < 0.6 * plain_bytes
    for ours, theirs in zip(plain, checkpointed, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("model", MODELS)
def test_frozen_weights_follow_the_environment_and_trained_ones_are_float32(
    envs: Any, model: str
) -> None:
    def dtypes(policy: UNetPolicy, trained: bool) -> set[torch.dtype]:
        parameters = policy.denoiser.parameters()
        return {p.dtype for p in parameters if p.requires_grad == trained}

    env = envs(model, "bfloat16")
    lora, full = make_policy(env, lora_rank=2), make_policy(env)
    assert dtypes(lora, trained=True) == dtypes(full, trained=True) == {torch.float32}
    assert dtypes(lora, trained=False) == {torch.bfloat16}
    assert dtypes(full, trained=False) == set()
    in_full_precision = make_policy(env, lora_rank=2, autocast="float32")
    assert dtypes(in_full_precision, trained=False) == {torch.float32}
    observation, _ = env.reset(seed=0)
    conditions = full.conditions(observation)
    base = full.base_transition(*conditions)
    assert {p.dtype for p in full._reference[0].parameters()} == {torch.bfloat16}
    with torch.no_grad():
        torch.testing.assert_close(base.mean, full.transition(*conditions).mean, atol=0.05, rtol=0)


def learn(env: Any, **policy_kwargs: Any) -> DiffusionPPO:
    torch.manual_seed(0)
    options = {"lora_rank": 2, "guidance": 2.0} | policy_kwargs
    return make_agent(env, policy_kwargs=options).learn(4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_resumed_run_in_half_precision_equals_the_uninterrupted_one(
    sd1_folder: Path, precision: str, tmp_path: Path
) -> None:
    """The scale of float16's gradients goes on where it was."""

    def fresh() -> Any:
        return small_env(sd1_folder, dtype=precision)

    def begun(images: int) -> DiffusionPPO:
        options = {"lora_rank": 2, "guidance": 2.0, "gradient_checkpointing": True}
        agent = make_agent(fresh(), policy_kwargs=options | {"optimizer": "adamw_fused"})
        enabled = precision == "float16"
        agent.policy.scaler = torch.amp.GradScaler("cpu", enabled=enabled, growth_interval=3)
        return agent.learn(images)

    first, whole = begun(4), begun(8)
    resumed = DiffusionPPO.resume(save_checkpoint(first, tmp_path / "round-1"), fresh())
    resumed.learn(4, reset_num_timesteps=False)
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.policy.scaler.state_dict() == whole.policy.scaler.state_dict()
    if precision == "float16":  # four updates, the scale doubled after the third
        assert resumed.policy.scaler.get_scale() == 2 * 65536
    else:
        assert resumed.policy.scaler.state_dict() == {}


def test_an_overflow_in_float16_skips_the_update_and_halves_the_scale(envs: Any) -> None:
    env = envs("sd1", "float16")
    agent = make_agent(env, updates_per_round=1, policy_kwargs={"lora_rank": 2})
    agent.policy.scaler = torch.amp.GradScaler("cpu", init_scale=1e30)
    before = weights(agent)
    agent.learn(4)
    assert torch.equal(weights(agent), before)
    assert agent.policy.scaler.get_scale() == pytest.approx(5e29)


def test_without_scaling_float16_loses_gradients(envs: Any) -> None:
    """Why the scaler is there: a mean over all pairs and dimensions makes gradients tiny."""
    policy = make_policy(envs("sd1", "float16"), autocast="float16")
    observation, _ = envs("sd1", "float16").reset(seed=0)

    def share_of_zeros(scale: float) -> float:
        step = policy.transition(*policy.conditions(observation))
        loss = 1e-3 * policy.log_prob(observation["latent"], step).mean()
        found = torch.autograd.grad(scale * loss, policy.trainable_parameters())
        flat = torch.cat([gradient.flatten() for gradient in found])
        return (flat == 0).float().mean().item()

    assert share_of_zeros(1.0) > 2 * share_of_zeros(65536.0)


def test_optimizers_by_name(envs: Any) -> None:
    def trained(name: str) -> Tensor:
        return weights(learn(envs("sd1"), optimizer=name))

    torch.testing.assert_close(trained("adamw"), trained("adamw_fused"), atol=1e-6, rtol=0)
    with pytest.raises(DiffusionGymError, match=r"unknown optimizer 'sgd'; known: adamw, "):
        make_policy(envs("sd1"), optimizer="sgd")


def test_eight_bit_states_need_bitsandbytes(envs: Any) -> None:
    if find_spec("bitsandbytes"):
        policy = make_policy(envs("sd1"), optimizer="adamw_8bit")
        assert type(policy.optimizer).__name__ == "AdamW8bit"
    else:
        with pytest.raises(DiffusionGymError, match="pip install bitsandbytes"):
            make_policy(envs("sd1"), optimizer="adamw_8bit")


@pytest.mark.parametrize(
    ("model", "layers"), [("sd1", ATTENTION_LAYERS), ("sd3", JOINT_ATTENTION_LAYERS)]
)
def test_lora_adapts_the_attention_unless_told_otherwise(
    envs: Any, model: str, layers: tuple[str, ...]
) -> None:
    names = [
        name
        for name, p in make_policy(envs(model), lora_rank=2).named_parameters()
        if p.requires_grad
    ]
    assert {next(layer for layer in layers if f".{layer}.lora" in name) for name in names} == set(
        layers
    )


def test_lora_targets_are_layers_of_the_denoiser(envs: Any) -> None:
    policy = make_policy(envs("sd1"), lora_rank=2, lora_targets=["to_v", "conv_in"])
    names = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == {"to_v", "conv_in"}
    with pytest.raises(DiffusionGymError, match=r"to_q.*got 'to_nothing'"):
        make_policy(envs("sd1"), lora_rank=2, lora_targets=["to_v", "to_nothing"])


def test_compiling_changes_no_name_and_no_result(envs: Any) -> None:
    """All but the compiler, which takes minutes: tests/gpu runs it."""
    plain = learn(envs("sd1"))
    with torch.compiler.set_stance("force_eager"):
        compiled = learn(envs("sd1"), compile=True)
    assert compiled.policy.denoiser.network._compiled_call_impl is not None
    assert torch.equal(weights(plain), weights(compiled))
    names = [name for name, _ in plain.policy.named_parameters()]
    assert names == [name for name, _ in compiled.policy.named_parameters()]
