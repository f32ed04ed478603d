"""Prompts by the name of a built-in set, from a file, or as a list."""

import os
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from diffusion_gym.errors import InvalidInputError, shown, unknown_name
from diffusion_gym.parsing import as_path
from diffusion_gym.prompts.animals import animals, imagenet_animals
from diffusion_gym.prompts.b2_templates import b2_activities, b2_colours, b2_relations
from diffusion_gym.prompts.emoji import emoji_captions, emoji_objects
from diffusion_gym.prompts.files import (
    READERS,
    read_prompt_file,
    read_prompt_folder,
    read_prompt_list,
)
from diffusion_gym.prompts.prompt_set import SPLITS, PromptList, PromptSet

BUILT_IN: Mapping[str, Callable[[], PromptSet]] = {
    "animals": animals,
    "b2-activities": b2_activities,
    "b2-colours": b2_colours,
    "b2-relations": b2_relations,
    "emoji-captions": emoji_captions,
    "emoji-objects": emoji_objects,
    "imagenet-animals": imagenet_animals,
}


def prompt_set_names() -> tuple[str, ...]:
    """Returns the names of the built-in prompt sets, sorted."""
    return tuple(sorted(BUILT_IN))


def load_prompts(
    spec: str | os.PathLike[str] | Sequence[str | Mapping[str, str]],
) -> PromptList:
    """Loads prompts.

    Args:
        spec: The name of a built-in set; or the path of a file, or of a folder, of one of the
            formats that `diffusion_gym.prompts.files` describes; or the prompts themselves, as
            texts or as ``{"prompt": …, "negative_prompt": …}``, where other keys are metadata.
            After a name or a path, ":train" (the default) or ":held_out" chooses the part. All
            prompts of a file are its part "train", except for a ``.json`` file that holds both
            parts by name. A path may begin with "~".

    Raises:
        InvalidInputError: The set or file does not exist, does not have that part, or does not
            hold different prompts that are not empty.
    """
    if isinstance(spec, os.PathLike):
        spec = os.fspath(spec)
    if not isinstance(spec, str):
        try:
            bad = isinstance(spec, Mapping | Set | bytes)
            texts: tuple[Any, ...] | None = None if bad else tuple(spec)
        except TypeError:  # nothing to iterate over
            texts = None
        if texts is None:
            raise InvalidInputError(
                "expected prompts as a list of texts, the name of a built-in set or the path of a "
                f"file, got {type(spec).__name__}: {shown(spec, 80)}"
            )
        return _listed(texts)
    source, colon, split = spec.rpartition(":")
    if not colon or split not in SPLITS:
        source, split = spec, SPLITS[0]
    if source in BUILT_IN:
        return BUILT_IN[source]().split(split)
    file = as_path("prompts", source)
    if file.is_dir():
        return PromptSet(source, read_prompt_folder(file)["train"]).split(split)
    if file.suffix.lower() in READERS:
        read = read_prompt_file(file)
        held_out = read.parts.get("held_out", ())
        about = read.negative_prompts, read.metadata
        return PromptSet(source, read.parts["train"], held_out, *about).split(split)
    parts = ", ".join(f"{name}[:held_out]" for name in prompt_set_names())
    suffixes = ", ".join(READERS)
    raise unknown_name(
        "prompt set",
        spec,
        [
            parts,
            f"the path of a file ({suffixes}), or of a folder of .txt files",
            "or a list of texts",
        ],
    )


def _listed(items: tuple[Any, ...]) -> PromptList:
    """Prompts that are texts, or some of them objects, with a negative prompt or metadata."""
    if not any(isinstance(item, Mapping) for item in items):
        return PromptList("list", items)
    try:
        read = read_prompt_list(items)
    except InvalidInputError as error:
        raise InvalidInputError(f"the list of prompts {error}") from error
    texts, negatives = read.parts["train"], read.negative_prompts
    own = tuple(map(negatives.get, texts)) if negatives else ()
    return PromptList("list", texts, own, read.metadata)
