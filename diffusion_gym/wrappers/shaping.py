"""Shaping wrappers: their two forms, of single and of vector environments, and legal stacks.

Gymnasium's wrappers of single and of vector environments have nothing in common. A shaping is
therefore three classes: ``CoCAReward`` holds the logic, written for a batch of B rows, and
``SingleCoCAReward`` and ``VectorCoCAReward`` are its forms, which add nothing but the base class
that Gymnasium asks for. ``CoCAReward(env)`` looks at what it is given and becomes the form that
fits.
"""

from typing import Any, ClassVar, Literal, Self

import gymnasium
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper

from diffusion_gym.envs.vector_env import DiffusionT2IVectorEnv
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.wrappers.base_env import BaseEnv

Role = Literal["credit", "branches"]
Kind = Literal["single", "vector"]

#: Why one shaping wrapper cannot lie around another, by (outer role, inner role).
CONFLICTS: dict[tuple[Role, Role], str] = {
    ("credit", "credit"): "an episode has one credit, the outer would overwrite the inner's",
    ("branches", "branches"): "a batch has one set of groups, and each has its own stages",
    ("branches", "credit"): "the credit must lie outside, where it sees which steps are trained",
}

#: What an environment of a kind is made with, for error messages.
MAKERS: dict[Kind, str] = {"single": "gymnasium.make", "vector": "gymnasium.make_vec"}


class RewardShaping:
    """Base of the wrappers that say more about an episode than its return.

    The reward itself is never altered; see `diffusion_gym.wrappers.hindsight`.

    A class that is for one kind of environment inherits from `SingleShaping` or `VectorShaping`. A
    class for both has two forms, each of them declared with ``form_of``; see `CreditReward`.

    Args:
        env: A single or vector DiffusionT2I environment, wrapped or not.
        settings: The wrapper's keyword arguments, for `gymnasium.envs.registration.EnvSpec`.

    Raises:
        InvalidInputError: If it is another environment, one of a kind that the class has no form
            for, or if a wrapper below forbids this one.
    """

    role: ClassVar[Role]

    #: The kind of environment that instances wrap; None for a class that becomes one of its forms.
    kind: ClassVar[Kind | None] = None

    #: The forms of this class, by kind.
    forms: ClassVar[dict[Kind, type["RewardShaping"]]] = {}

    #: Whether it neither reads rewards, nor what the infos say of them, nor changes them, so that
    #: they may come later (`DiffusionT2IVectorEnv.scoring_later`). A subclass says so itself; a
    #: form is as what it is a form of.
    ignores_rewards: ClassVar[bool] = False

    #: The class's name as users write it: a form goes by the name of what it is a form of.
    shaping_name: ClassVar[str] = "RewardShaping"

    # What Gymnasium's wrappers of either kind have. The forms' base classes define it; declared
    # here, it is known of a class that becomes one of its forms.
    env: Any
    unwrapped: Any
    reset: Any
    step: Any
    render: Any
    close: Any
    observation_space: Any
    action_space: Any
    metadata: Any
    spec: Any

    def __init_subclass__(cls, form_of: type["RewardShaping"] | None = None, **others: Any) -> None:
        """Notes a form with the class that it is a form of.

        Args:
            form_of: The class that becomes this one around environments of this one's kind.
            others: For further base classes.
        """
        super().__init_subclass__(**others)
        cls.forms = {}  # of its own: what a base class becomes is not what this class says
        cls.shaping_name = cls.__name__ if form_of is None else form_of.__name__
        inherited = form_of is not None and form_of.ignores_rewards
        cls.ignores_rewards = vars(cls).get("ignores_rewards", inherited)
        if form_of is None:
            return
        if cls.kind is None or not issubclass(cls, form_of):
            raise InvalidInputError(
                f"expected {cls.__name__}, a form of {form_of.__name__}, to inherit from it and "
                f"from SingleShaping or VectorShaping, got {[b.__name__ for b in cls.__bases__]}"
            )
        form_of.forms[cls.kind] = cls

    def __new__(cls, env: Any = None, *args: Any, **settings: Any) -> Self:
        """Becomes the form that the environment needs; copying comes here without one."""
        del args, settings
        if cls.kind is not None:
            return object.__new__(cls)
        check_env(cls, env)
        kind = kind_of(env)
        form = cls.forms.get(kind)
        if form is None:
            base = f"{kind.capitalize()}Shaping"
            raise InvalidInputError(
                f"{cls.__name__} has no form for {kind} environments: expected a class such as "
                f"`class {kind.capitalize()}{cls.__name__}({cls.__name__}, {base}, "
                f"form_of={cls.__name__})`, got forms for {sorted(cls.forms) or 'none'}"
            )
        assert issubclass(form, cls)
        return object.__new__(form)

    def __init__(self, env: Any, **settings: Any) -> None:
        check_env(type(self), env)
        check_stack(type(self), env)
        self._attach(env, settings)

    @property
    def base(self) -> BaseEnv:
        """The environment below every wrapper."""
        base: BaseEnv = self.env.unwrapped
        return base

    def _attach(self, env: Any, settings: dict[str, Any]) -> None:
        """Lies down around the environment, as Gymnasium's wrappers of its kind do."""
        raise NotImplementedError


class SingleShaping(RewardShaping, RecordConstructorArgs, gymnasium.Wrapper[Any, Any, Any, Any]):
    """A shaping wrapper of single environments; `EnvSpec` rebuilds it from its settings."""

    kind = "single"

    def _attach(self, env: Any, settings: dict[str, Any]) -> None:
        RecordConstructorArgs.__init__(self, **settings)
        gymnasium.Wrapper.__init__(self, env)


class VectorShaping(RewardShaping, VectorWrapper[Any, Any, Any, Any, Any]):
    """A shaping wrapper of vector environments; those have no recipe of their wrappers."""

    kind = "vector"

    def _attach(self, env: Any, settings: dict[str, Any]) -> None:
        del settings
        VectorWrapper.__init__(self, env)

    @property
    def base(self) -> DiffusionT2IVectorEnv:
        """The environment below every wrapper."""
        base: DiffusionT2IVectorEnv = self.env.unwrapped
        return base


def shapings(env: Any) -> list[RewardShaping]:
    """The shaping wrappers around an environment, from the outermost inwards."""
    found = []
    while env is not env.unwrapped:
        if isinstance(env, RewardShaping):
            found.append(env)
        env = env.env
    return found


def kind_of(env: Any) -> Kind:
    """Whether an environment is a single or a vector environment."""
    return "vector" if isinstance(env, VectorEnv) else "single"


def check_env(cls: type[RewardShaping], env: Any) -> None:
    """Raises InvalidInputError unless ``env`` is one that a wrapper of this class can wrap."""
    name = cls.shaping_name
    if not isinstance(env, gymnasium.Env | VectorEnv):
        raise InvalidInputError(
            f"{name}: expected an environment to wrap, got {type(env).__name__}"
        )
    if not isinstance(env.unwrapped, BaseEnv):
        raise InvalidInputError(
            f"{name}: expected a DiffusionT2I environment from gymnasium.make or "
            f"gymnasium.make_vec, got {type(env.unwrapped).__name__}; in a SyncVectorEnv or "
            "AsyncVectorEnv, wrap the single environments"
        )
    if cls.kind is not None and cls.kind != kind_of(env):
        raise InvalidInputError(
            f"{cls.__name__} is for {cls.kind} environments: expected one as from "
            f"{MAKERS[cls.kind]}('DiffusionT2I-v0'), got {type(env).__name__}"
        )


def check_stack(cls: type[RewardShaping], env: Any) -> None:
    """Raises InvalidInputError if a wrapper below forbids one of this class."""
    for inner in shapings(env):
        reason = CONFLICTS.get((cls.role, inner.role))
        if reason is not None:
            raise InvalidInputError(
                f"{cls.shaping_name} cannot lie around {inner.shaping_name}: {reason}"
            )
