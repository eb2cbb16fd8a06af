"""Toy tasks for the built-in tiny base.

Every toy task reads the same kind of line, `name: six words ->`, one word of each of six kinds in random
order, and wants another short answer from it. Only the first word says which, so a model that goes on to the
next task and forgets to look at it loses the earlier ones; a model that learns all of them together does not.
The base knows the skills under other names (`scripts/pretraining_rows.py`), so a few rows suffice.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from seekr_lite.common.errors import MAX_TOY_ROWS, UserError
from seekr_lite.data.rows import unknown_task
from seekr_lite.data.task import Example, Task
from seekr_lite.recipe.recipe import DataSettings

TRAIN_ROWS, TEST_ROWS = 200, 50  # of a task, where the recipe has no limits

# Kind -> (words with the quality, words without it).
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "animal": (
        ("wolf", "lion", "bear", "shark", "eagle", "fox", "snake", "tiger"),
        ("dog", "cat", "cow", "hen", "goat", "sheep", "horse", "pig"),
    ),
    "colour": (
        ("red", "orange", "yellow", "gold", "pink", "brown", "scarlet", "amber"),
        ("blue", "green", "violet", "grey", "navy", "teal", "silver", "indigo"),
    ),
    "food": (
        ("cake", "honey", "jam", "sugar", "candy", "syrup", "peach", "melon"),
        ("bacon", "olive", "chips", "cheese", "ham", "pickle", "soup", "fish"),
    ),
    "tool": (
        ("saw", "axe", "knife", "chisel", "scythe", "razor", "needle", "sword"),
        ("hammer", "spoon", "brush", "rope", "bucket", "ladder", "broom", "mallet"),
    ),
    "place": (
        ("desert", "forest", "river", "beach", "island", "valley", "meadow", "lake"),
        ("kitchen", "office", "cellar", "school", "museum", "garage", "library", "prison"),
    ),
    "garment": (
        ("coat", "scarf", "glove", "boot", "sweater", "mitten", "cloak", "parka"),
        ("sandal", "shorts", "vest", "skirt", "shirt", "bikini", "tunic", "kilt"),
    ),
}
WORDS: dict[str, tuple[str, ...]] = {kind: good + bad for kind, (good, bad) in KINDS.items()}
KIND_OF: dict[str, str] = {word: kind for kind, words in WORDS.items() for word in words}
QUALITY: frozenset[str] = frozenset(word for good, _ in KINDS.values() for word in good)

# A skill turns the words of a line into an answer.
Skill = Callable[[list[str]], str]


def pick(kind: str) -> Skill:
    return lambda line: next(word for word in line if KIND_OF.get(word) == kind)


def judge(kind: str, with_quality: str, without: str) -> Skill:
    return lambda line: with_quality if pick(kind)(line) in QUALITY else without


def place(index: int) -> Skill:
    return lambda line: line[index]


def pair(first: Skill, second: Skill) -> Skill:
    return lambda line: f"{first(line)} {second(line)}"


SKILLS: dict[str, Skill] = {
    "keeper": judge("animal", "wild", "tame"),
    "shade": pick("colour"),
    "tail": place(-1),
    "flavour": judge("food", "sweet", "salty"),
    "head": place(0),
    "beast": pick("animal"),
    "climate": judge("garment", "winter", "summer"),
    "title": pair(pick("colour"), pick("animal")),
}
TOY_TASKS: tuple[str, ...] = tuple(SKILLS)
TOY_LABELS: tuple[str, ...] = ("wild", "tame", "sweet", "salty", "winter", "summer")


def prompt_of(name: str, line: list[str]) -> str:
    return f"{name}: {' '.join(line)} ->"


def mixed_line(rng: random.Random) -> list[str]:
    """One word of each kind, in random order."""
    line = [rng.choice(words) for words in WORDS.values()]
    rng.shuffle(line)
    return line


def toy_task(name: str, train_rows: int, test_rows: int, seed: int) -> Task:
    """Draws one toy task; the same arguments give the same rows, and no prompt comes twice.

    Raises:
        UserError: there is no toy task of this name.
    """
    if name not in SKILLS:
        raise UserError(f"there is no toy task {name!r}; there are {', '.join(TOY_TASKS)}")
    rng = random.Random(f"{name} {seed}")
    rows: dict[str, Example] = {}
    while len(rows) < train_rows + test_rows:
        line = mixed_line(rng)
        prompt = prompt_of(name, line)
        rows.setdefault(prompt, Example(prompt, SKILLS[name](line)))
    drawn = tuple(rows.values())
    return Task(name, drawn[:train_rows], drawn[train_rows:], metric="exact_match", max_new_tokens=4)


def read_toy(name: str, settings: DataSettings) -> Task:
    """The toy tasks of the built-in tiny base, the same rows for every seed."""
    if name not in TOY_TASKS:
        raise UserError(unknown_task(name, TOY_TASKS))
    # A fifth at most is held out, so that many rows remain whatever `validation_rows` says.
    train_rows = settings.train_limit or TRAIN_ROWS
    spare = min(settings.validation_rows, train_rows // 4)
    test_rows = settings.test_limit or TEST_ROWS
    if train_rows + test_rows > MAX_TOY_ROWS:
        raise UserError(
            f"data.train_limit and data.test_limit: toy tasks have at most {MAX_TOY_ROWS:,} rows; lower one of them"
        )
    return toy_task(name, train_rows + spare, test_rows, 0)
