"""Settings of a training run, composed of what they are settings of."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from agents.common.round_config import RoundConfig
from agents.policy.config import PolicyConfig
from agents.ppo.config import PPOConfig
from agents.runs.algorithms import ALGORITHMS, algorithm
from agents.runs.methods import RunLength, ShapingConfig
from agents.runs.own_parts import unknown, with_absolute_paths
from agents.runs.presets import load_preset
from agents.runs.recommended import recommended
from diffusion_gym.checks import Checked, Count, CountOrNone, Positive, Seed
from diffusion_gym.envs import EnvConfig
from diffusion_gym.envs.config import absolute
from diffusion_gym.errors import InvalidInputError, unknown_name
from diffusion_gym.models.embedded import EMOJI64


@dataclass(frozen=True)
class RunConfig(Checked):
    """What a run trains with, how long it is, and what it leaves behind."""

    algorithm: str = "ppo"
    """Agent: PPO on the denoising steps (ppo), DiffusionNFT on the forward process (nft), or an
    ImageAlgorithm of yours, as module:Class or path/file.py:Class."""

    preset: str | None = None
    """Published recipe, or the path of a .toml file like theirs; options given beside it override
    it."""

    images: Count = 1216
    """Images to draw in training, in all processes together, in whole rounds."""

    num_envs: Count = 64
    """Images drawn at once, in all processes together."""

    seed: Seed = 0
    """Seed of everything random."""

    from_run: Annotated[
        str | None, tyro.conf.arg(name="from", aliases=("--from-run",), metavar="TEXT")
    ] = None
    """Run folder, checkpoint or exported folder whose trained weights this run begins with; the
    model's own stay the base of KL divergences and of before and after."""

    output: str | None = None
    """Run folder; by default runs/REWARD-seedN[-K]."""

    checkpoint_every: Count = 5
    """Most rounds between checkpoints."""

    checkpoint_minutes: Positive = 10.0
    """Most minutes between them, to whole rounds."""

    keep_checkpoints: Count = 2
    """Checkpoints to keep."""

    callback: Annotated[
        tyro.conf.UseAppendAction[Sequence[str]], tyro.conf.arg(metavar="TEXT")
    ] = ()
    """Stable-Baselines3 callback of yours, as module:Class or path/file.py:Class, built without
    arguments; may be given repeatedly."""

    wandb: str | None = None
    """Project of Weights & Biases to log to as well (pip install wandb); its own WANDB_MODE=offline
    and WANDB_ENTITY are honoured."""


@dataclass(frozen=True)
class EvaluationConfig(Checked):
    """How the policy is evaluated, on prompts that it was not trained on where there are any."""

    eval_prompts: Count = 64
    """Most prompts to evaluate on."""

    eval_samples: Count = 4
    """Images per prompt."""

    also: Sequence[str] | None = None
    """Rewards to watch besides the one that is trained on, with commas between; by default as fits
    the model."""

    diversity_clip: str | None = None
    """Folder or hub id of the CLIP by whose embeddings diversity/clip compares images; by default
    the embedded one, which knows emoji alone."""

    eval_every: CountOrNone = 0
    """Rounds between evaluations during training; 0: none."""

    picture_every: CountOrNone = 2
    """Rounds between pictures of a few of these prompts, always from the same noise; 0: none."""

    picture_prompts: Count = 8
    """How many prompts they are of."""

    max_kl: Positive | None = None
    """End the run at the first of these evaluations whose KL divergence to the base model, as
    kl_to_base of the report has it, is larger; by default never."""

    def __post_init__(self) -> None:
        """Checks every field, and that there are evaluations to end a run at.

        Raises:
            InvalidInputError: A value is of another type or outside its range.
        """
        super().__post_init__()
        if self.diversity_clip is not None:
            object.__setattr__(self, "diversity_clip", absolute(self.diversity_clip, ()))
        if self.max_kl is not None and not self.eval_every:
            raise InvalidInputError(
                f"max_kl={self.max_kl:g} is looked at in evaluations during training: expected "
                "eval_every of at least 1, got 0"
            )


@dataclass(frozen=True)
class TrainSettings:
    """One training run; every field of every part is an option of ``python -m agents.train``.

    Which options the agent has depends on the algorithm. `of` fills in what is recommended; the
    parts' own defaults fit no model in particular.
    """

    run: RunConfig = field(default_factory=RunConfig)
    """How long the run is, and what it leaves behind."""

    env: EnvConfig = field(default_factory=EnvConfig)
    """What the environment is made of."""

    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    """How the return of an episode becomes advantages of its steps."""

    agent: RoundConfig = field(default_factory=PPOConfig)
    """Rounds, advantages and updates."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """How the denoiser is evaluated, and which of its weights train."""

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How the policy is evaluated."""

    @classmethod
    def of(cls, **options: Any) -> "TrainSettings":
        """The settings of a run, by the names of all parts' fields.

        What is not given is taken from the preset, where there is one, else as is recommended for
        the model, the reward and the shaping. With another reward than the preset's, its options
        of its own reward are dropped, and so is what has no use beside the options that are given
        (`agents.runs.algorithms.Algorithm.unused`). Code that they name is not imported here, but
        by `agents.runs.own_parts.use`.

        Raises:
            InvalidInputError: A name is unknown, a value is of another type or outside its range,
                or the preset does not exist or sets what cannot be set; or code that is named was
                not imported.
        """
        recipe: dict[str, Any] = {}
        if options.get("preset") is not None:
            every = {k: v for one in ALGORITHMS for k, v in cls.kinds(one).items()}
            recipe = load_preset(options["preset"], every)
        if "reward" in options:
            recipe.pop("reward_options", None)  # they are another reward's
        chosen = with_absolute_paths(recipe | options)
        if missing := unknown(chosen):
            raise InvalidInputError(
                f"expected code that agents.runs.own_parts.use has imported, got "
                f"{', '.join(each.text for each in missing)}"
            )
        about = ("model", "reward", "shaping", "device", "algorithm")
        model = chosen.get("model", EnvConfig.model)
        defaults = recommended(
            **({"model": model} | {name: chosen[name] for name in about if name in chosen})
        )
        name = _algorithm(chosen)
        if name != "ppo":  # of what is recommended for PPO, what is not PPO's own
            own = algorithm(name)
            known = cls.kinds(name)
            defaults = {key: value for key, value in defaults.items() if key in known}
            defaults |= own.embedded if model == EMOJI64 else own.checkpoint
        found = defaults | chosen
        for needless in set(algorithm(name).unused(found)) - options.keys():
            found.pop(needless, None)
        return cls.from_flat(found)

    @classmethod
    def from_flat(cls, options: Mapping[str, Any]) -> "TrainSettings":
        """The settings with these values by the names of all parts' fields; `flat` turned round.

        Raises:
            InvalidInputError: A name is unknown or another algorithm's, or a value is of another
                type or outside its range.
        """
        chosen = _algorithm(options)
        kinds = cls.parts(chosen)
        homes = {name: part for part, kind in kinds.items() for name in _names(kind)}
        values: dict[str, dict[str, Any]] = {part: {} for part in kinds}
        for name, value in options.items():
            if name not in homes:
                cls.check_belongs(name, chosen)
                raise unknown_name("setting", name, homes)
            values[homes[name]][name] = value
        parts: dict[str, Any] = {part: kind(**values[part]) for part, kind in kinds.items()}
        return cls(**parts)

    @classmethod
    def of_unknown_agent(cls, options: Mapping[str, Any]) -> "TrainSettings":
        """`from_flat` without the options that are an agent's own, whose class is not known here.

        That is enough to draw and to evaluate.
        """
        hints = typing.get_type_hints(cls) | {"agent": RoundConfig}
        return cls(
            **{
                part.name: (kind := hints[part.name])(
                    **{name: options[name] for name in _names(kind) if name in options}
                )
                for part in dataclasses.fields(cls)
            }
        )

    @classmethod
    def check_belongs(cls, name: str, chosen: str) -> None:
        """Refuses an option that only other algorithms than the chosen one have.

        Raises:
            InvalidInputError: It is one.
        """
        if name in cls.kinds(chosen):
            return
        others = [other for other in ALGORITHMS if name in cls.kinds(other)]
        if others:
            raise InvalidInputError(
                f"{name} belongs to the algorithm {' or '.join(others)}: expected none with "
                f"algorithm={chosen!r}"
            )

    def flat(self) -> dict[str, Any]:
        """All values by the names of the fields, as JSON has them."""
        return {
            name: value
            for part in dataclasses.fields(self)
            for name, value in dataclasses.asdict(getattr(self, part.name)).items()
        }

    @classmethod
    def parts(cls, chosen: str = "ppo") -> dict[str, type[Checked]]:
        """The dataclasses that the settings are composed of, by the names of their fields."""
        hints = typing.get_type_hints(cls) | {"agent": algorithm(chosen).config}
        return {part.name: hints[part.name] for part in dataclasses.fields(cls)}

    @classmethod
    def kinds(cls, chosen: str = "ppo") -> dict[str, Any]:
        """The type of every setting by its name."""
        return {
            name: kind
            for part in cls.parts(chosen).values()
            for name, kind in typing.get_type_hints(part, include_extras=True).items()
        }

    def differences(self, others: "TrainSettings") -> list[str]:
        """Names of the settings that others have another value of; None stands for any value."""
        own, theirs = self.flat(), others.flat()
        return [name for name in own if own[name] not in (None, theirs.get(name))]

    @property
    def ppo(self) -> PPOConfig:
        """The agent's options, of a run with PPO.

        Raises:
            InvalidInputError: It is with another algorithm.
        """
        if not isinstance(self.agent, PPOConfig):
            raise InvalidInputError(
                f"expected the settings of a run with PPO, got {self.run.algorithm!r}"
            )
        return self.agent

    @property
    def rounds(self) -> int:
        """Rounds of the whole run."""
        return -(-self.run.images // (self.run.num_envs * self.agent.batches_per_round))

    @property
    def length(self) -> RunLength:
        """How long the run is, for the shapings."""
        return RunLength(self.rounds, self.agent.batches_per_round)


def _algorithm(options: Mapping[str, Any]) -> str:
    """The algorithm that options name."""
    return RunConfig(algorithm=options.get("algorithm", "ppo")).algorithm


def _names(kind: type[Checked]) -> list[str]:
    return [item.name for item in dataclasses.fields(typing.cast(Any, kind))]
