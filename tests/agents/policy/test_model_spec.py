"""An agent that is loaded without an environment finds its model and schedule again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_agents import STEPS, make_agent, make_env

from agents.ppo import DiffusionPPO

PROMPTS = ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sd1", {"dtype": "bfloat16", "model_options": {"vae_dtype": "float32"}}),
        ("sd3", {"sampler": "flow_sde", "eta": 0.5}),
        ("sd3", {"sampler": "flow_cps", "stochastic_steps": [0, 1]}),
    ],
)
def test_an_agent_loaded_without_an_environment_is_the_same(
    kind: str, options: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(f"{kind}_folder")
    env = make_env(2, model=str(folder), prompts=PROMPTS, **options)
    agent = make_agent(env, policy_kwargs={"lora_rank": 2}).learn(2)
    agent.save(tmp_path / "agent.zip")
    loaded = DiffusionPPO.load(tmp_path / "agent.zip")
    assert loaded.model_spec == agent.model_spec
    ours, theirs = agent.policy, loaded.policy
    assert theirs.precision == ours.precision
    assert theirs.model.dtype == ours.model.dtype
    assert theirs.model.options == ours.model.options
    assert type(theirs.schedule) is type(ours.schedule)
    assert theirs.schedule.window == ours.schedule.window
    assert (theirs.schedule.num_steps, theirs.schedule.eta) == (STEPS, ours.schedule.eta)
    observation, _ = env.reset(seed=0)
    for index in range(STEPS):
        actions = ours.act(observation, deterministic=True).actions
        assert torch.equal(theirs.act(observation, deterministic=True).actions, actions), index
        observation = env.step(actions)[0]
