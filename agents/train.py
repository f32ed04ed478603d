"""Fine-tunes a text-to-image model by reinforcement: ``python -m agents.train``."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import tyro

from agents.common.processes import join, leave
from agents.runs import cli
from agents.runs.algorithms import ALGORITHMS
from agents.runs.methods import METHODS
from agents.runs.own_parts import check_trusted, use, with_absolute_paths
from agents.runs.presets import preset_names, read_preset
from agents.runs.run_folder import RunFolder
from agents.runs.screen import Screen
from agents.runs.settings import TrainSettings
from agents.runs.start import read_start
from agents.runs.training import Training
from diffusion_gym.checks import Checked, Count
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.parsing import as_path
from diffusion_gym.rewards import reward_names

COMMAND = "python -m agents.train"


@dataclass(frozen=True)
class Choice(Checked):
    """The options that decide what the others' defaults are."""

    resume: str | None = None
    """Folder of the run to continue, which keeps its settings."""

    images: Count | None = None
    """Images of the run in all; with --resume, more than before extend it."""

    algorithm: str | None = None
    """The agent."""

    preset: str | None = None
    """Published recipe."""

    model: str | None = None
    """The model."""

    reward: str | Mapping[str, float] | None = None
    """The reward."""

    reward_options: Mapping[str, Any] | None = None
    """Options of rewards."""

    also: Sequence[str] | None = None
    """Rewards to watch."""

    shaping: str | None = None
    """The reward shaping."""

    shaping_options: Mapping[str, Any] | None = None
    """Options of a shaping of one's own."""

    callback: tyro.conf.UseAppendAction[Sequence[str]] = ()
    """Callbacks."""

    from_run: Annotated[str | None, tyro.conf.arg(name="from", aliases=("--from-run",))] = None
    """Where the weights to begin with are."""

    device: str | None = None
    """The device."""

    trust: bool = False
    """Import the code that the resumed run, or the preset, names."""

    @property
    def settings(self) -> dict[str, Any]:
        """Those settings of a new run among the options that are given."""
        chosen = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: value
            for name, value in chosen.items()
            if name not in ("resume", "trust") and value not in (None, ())
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, or continues a run; returns the exit status (130 after Ctrl-C).

    Started by torchrun or ``accelerate launch``, it is one of the processes that do.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    choice, others = cli.parse_known(Choice, given)
    device = choice.device
    if choice.resume is not None:
        device = RunFolder.open(choice.resume).settings.env.device
    processes = join(device or "auto")
    console = Screen(quiet=not processes.is_main)
    with processes.together():  # what the settings are made of has to be known in every process
        import_named(choice)
    if choice.resume is None:
        settings = processes.from_main(lambda: read_settings(given))
        status = Training(settings, console).run()
    else:
        run, settings = processes.from_main(lambda: _resumed(choice, others))
        status = Training(settings, console, run).run()
    leave()
    return status


def import_named(choice: Choice) -> None:
    """Imports the code that is named on the command line, and, where trusted, in a file that is.

    Raises:
        InvalidInputError: It cannot be imported, or is not what it should be; or a run folder or a
            preset names code and is not trusted.
    """
    typed = with_absolute_paths(choice.settings)
    use(typed)
    if choice.resume is not None:
        foreign, where = RunFolder.open(choice.resume).flat_settings(), choice.resume
    elif choice.preset is not None:
        recipe = read_preset(choice.preset)
        foreign = {name: value for name, value in recipe.items() if name not in typed}
        where = choice.preset
    else:
        return
    check_trusted(foreign, where, choice.trust)
    use(with_absolute_paths(foreign))


def _resumed(choice: Choice, others: Sequence[str]) -> tuple[RunFolder, TrainSettings]:
    """The run to go on with, and its settings, which may have more images than before.

    Raises:
        InvalidInputError: There are other options besides; or it would have fewer images.
    """
    assert choice.resume is not None
    named = [name for name in choice.settings if name != "images"]
    if named or others:
        flags = [f"--{name.replace('_', '-')}" for name in named]
        flags += [word for word in others if word[:2] == "--"]
        raise InvalidInputError(
            f"a resumed run keeps its settings: expected --resume alone, or with more --images, "
            f"got {', '.join(flags or others)} as well"
        )
    run = RunFolder.open(choice.resume)
    settings = run.settings
    if choice.images is None:
        return run, settings
    if choice.images < settings.run.images:
        raise InvalidInputError(
            f"expected --images of a resumed run to be {settings.run.images} or more, as it was "
            f"started with, got {choice.images}"
        )
    return run, replace(settings, run=replace(settings.run, images=choice.images))


def read_settings(arguments: Sequence[str]) -> TrainSettings:
    """The settings of a new run: what is given, over what is recommended for what is given.

    Code that they name has been imported by `import_named`.

    Raises:
        SystemExit: After ``--help``, or an option that cannot be read.
        InvalidInputError: A name is unknown.
    """
    choice, others = cli.parse_known(Choice, arguments)
    chosen, inherited = choice.settings, {}
    if choice.from_run is not None:
        start = read_start(choice.from_run)
        inherited = start.settings
        chosen["from_run"] = str(as_path("from", choice.from_run).absolute())
    default = TrainSettings.of(**(inherited | chosen))
    for word in others:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            TrainSettings.check_belongs(name, default.run.algorithm)
    return cli.parse(
        TrainSettings,
        others,
        command=COMMAND,
        description=_description(),
        default=default,
    )


def _description() -> str:
    return (
        "Fine-tunes a text-to-image model by reinforcement. The options and defaults below are "
        "those for the algorithm, the model, the reward, the shaping and the preset that are named "
        "before --help. "
        "--resume RUN continues the run in a folder, with --images N to N images in all. "
        "A reward, shaping, algorithm or callback of yours is module:name or path/file.py:name; "
        "--trust imports the code that a resumed run, or a preset, names. "
        "With N processes (torchrun --nproc-per-node N -m agents.train …, or accelerate launch) "
        "every number of images is of all together, --batch-size is of each.\n\n"
        f"Algorithms: {', '.join(ALGORITHMS)}.\n\n"
        f"Presets: {', '.join(preset_names())}.\n\n"
        f"Shapings: {', '.join(METHODS)}.\n\n"
        f"Rewards: {', '.join(reward_names())}."
    )


if __name__ == "__main__":
    cli.run(main)
