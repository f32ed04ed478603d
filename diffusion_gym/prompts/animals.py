"""The animals of DDPO and CoCA: bare nouns, as their code gives them to the text encoder."""

import functools
from pathlib import Path

from diffusion_gym.prompts.prompt_set import PromptSet

ANIMALS = tuple(
    """
    cat dog horse monkey rabbit zebra spider bird sheep deer cow goat lion tiger bear
    raccoon fox wolf lizard beetle ant butterfly fish shark whale dolphin squirrel mouse rat snake
    turtle frog chicken duck goose bee pig turkey fly llama camel bat gorilla hedgehog kangaroo
    """.split()
)
"""The 45 animals of DDPO (arXiv 2305.13301), in the order of kvablack/ddpo-pytorch."""

UNSEEN_ANIMALS = tuple(
    "snail hippopotamus cheetah crocodile lobster octopus elephant jellyfish".split()
)
"""The 8 animals that CoCA (arXiv 2505.19196, Lil-Shake/CoCA) tests generalisation on."""


@functools.cache
def animals() -> PromptSet:
    """Trained on by DDPO and CoCA for the aesthetic score and human preferences."""
    return PromptSet("animals", ANIMALS, UNSEEN_ANIMALS)


@functools.cache
def imagenet_animals() -> PromptSet:
    """The 398 animal classes of ImageNet with all their names, as in "tench, Tinca tinca".

    DDPO trains on them for (in)compressibility. They are classes 0 to 397, by the names that
    WordNet has for them; nothing is held out.
    """
    file = Path(__file__).with_name("imagenet_animals.txt")
    return PromptSet("imagenet-animals", tuple(file.read_text(encoding="utf-8").splitlines()))
