"""The three prompt templates of B²-DiffuRL (arXiv 2503.11240; hu-zijing/B2-DiffuRL).

Train and test split, texts and their order are those of the released ``config/prompt/*.json``:
articles are always "a", also before a vowel, and objects of the other two templates have none.
"""

import functools

from diffusion_gym.prompts.animals import ANIMALS
from diffusion_gym.prompts.prompt_set import PromptSet

ACTIVITIES = ("washing dishes", "riding a bike", "playing chess")
"""Each is trained with a third of the animals."""

COLOURS = """
    apple: red green | yellow
    banana: yellow brown | green
    orange: orange yellow | green
    strawberry: red green | white
    grape: purple green | black
    watermelon: red green | white
    kiwi: brown green | white
    mango: orange yellow | green
    pear: green yellow | brown
    pineapple: yellow brown | green
    peach: orange yellow | red
    plum: purple green | red
    blueberry: blue purple | black
    raspberry: red green | black
    lemon: yellow green | white
    lime: green yellow | white
    avocado: green brown | yellow
    cherry: red green | black
    pomegranate: red pink | white
    grapefruit: pink red | yellow
    carrot: | white
    broccoli: | white
    tomato: | yellow
    cucumber: | white
    spinach: | brown
    lettuce: | red
    bell pepper: | yellow
    zucchini: | white
    sweet potato: | white
    onion: | green
    garlic: | green
    celery: | white
    cabbage: | white
    cauliflower: | purple
    eggplant: | green
    asparagus: | purple
    peas: | white
    corn: | green
    green beans: | purple
    brussels sprouts: | white
"""
"""Objects with the colours that they are trained in, and tested in."""

TRAINED_RELATIONS = """
    under: chair umbrella, table umbrella
    on: car street, wheel train, airplane street, bag street
    under: tree sky, building sky, street sky
    on: dog boat
    under: tower sky
    on: cup shirt, person street, laptop table
    under: table laptop
    on: person sofa, glasses face
    under: sofa person, table vase, street car
    on the right of: dog vase, building building
    on the left of: suitcase person, dog person
    on the right of: kite kite
    on the left of: person ball
    on the right of: ball person
    on the left of: road grass
    on the right of: grass road
    on the left of: person pillow
    on the right of: bowl plate, building truck
    on the left of: person bottle
    on the right of: bottle person
    on the left of: box post, building building
    on the right of: car car, truck car
    on the left of: car car, person person
"""
TESTED_RELATIONS = """
    on: vase table, shirt person, watch person, jacket person, motorcycle road
    behind: motorcycle person, person person, building trees, hydrant motorcycle, trees grass
    in the front of: wheel wheel, tower train, truck building, cat vase, trash_can cabinet
    under: road bus, road building, road wheel, table plate, person umbrella
    on the right of: cone cone, car umbrella, phone monitor, person bear, bear person
    on the left of: bear person, car bus, motorcycle bus, motorcycle car, road tree
"""
"""Relations with the pairs of objects that they are trained, and tested, between."""


@functools.cache
def b2_activities() -> PromptSet:
    """Template 1, an animal doing something: "a cat washing dishes"; 45 to train, 90 to test.

    Of an animal's three activities one is trained, and the other two are tested.
    """
    train: list[str] = []
    held_out: list[str] = []
    per_activity = len(ANIMALS) // len(ACTIVITIES)
    for number, animal in enumerate(ANIMALS):
        for activity in ACTIVITIES:
            trained = activity == ACTIVITIES[number // per_activity]
            (train if trained else held_out).append(f"a {animal} {activity}")
    return PromptSet("b2-activities", tuple(train), tuple(held_out))


@functools.cache
def b2_colours() -> PromptSet:
    """Template 2, an object in a colour: "red apple"; 40 to train, 40 to test.

    Tested are the trained objects in another colour, and as many objects that were not trained.
    """
    train: list[str] = []
    held_out: list[str] = []
    for line in COLOURS.strip().splitlines():
        item, colours = line.strip().split(": ")
        trained, tested = colours.split("| ")
        train += [f"{colour} {item}" for colour in trained.split()]
        held_out += [f"{colour} {item}" for colour in tested.split()]
    return PromptSet("b2-colours", tuple(train), tuple(held_out))


@functools.cache
def b2_relations() -> PromptSet:
    """Template 3, objects in a relation: "dog on the right of vase"; 40 to train, 30 to test.

    Two relations, "behind" and "in the front of", are only tested.
    """
    return PromptSet(
        "b2-relations", _related_objects(TRAINED_RELATIONS), _related_objects(TESTED_RELATIONS)
    )


def _related_objects(table: str) -> tuple[str, ...]:
    prompts = []
    for line in table.strip().splitlines():
        relation, pairs = line.strip().split(": ")
        for pair in pairs.split(", "):
            first, second = pair.split()
            prompts.append(f"{first} {relation} {second}".replace("_", " "))
    return tuple(prompts)
