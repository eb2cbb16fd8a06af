"""Toy tasks for the built-in tiny base, and the rows that base was trained on.

Every toy task reads the same kind of line, `name: six words ->`, one word of each of six kinds in random
order, and wants another short answer from it. Only the first word says which, so a model that goes on to the
next task and forgets to look at it loses the earlier ones; a model that learns all of them together does not.

The pretraining rows teach the skills (pick a kind, pick a place, judge a word, pair, reverse, sort, copy)
under other first words and other labels: an adapter binds a new word to an old skill, and a few rows suffice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from seekr_lite.common.errors import MAX_TOY_ROWS, UserError
from seekr_lite.data.rows import unknown_task
from seekr_lite.data.task import Example, Task

if TYPE_CHECKING:
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
_KIND_OF: dict[str, str] = {word: kind for kind, words in WORDS.items() for word in words}
_QUALITY: frozenset[str] = frozenset(word for good, _ in KINDS.values() for word in good)

# A skill turns the words of a line into an answer.
Skill = Callable[[list[str]], str]


def _pick(kind: str) -> Skill:
    return lambda line: next(word for word in line if _KIND_OF.get(word) == kind)


def _judge(kind: str, with_quality: str, without: str) -> Skill:
    return lambda line: with_quality if _pick(kind)(line) in _QUALITY else without


def _place(index: int) -> Skill:
    return lambda line: line[index]


def _pair(first: Skill, second: Skill) -> Skill:
    return lambda line: f"{first(line)} {second(line)}"


_TOYS: dict[str, Skill] = {
    "keeper": _judge("animal", "wild", "tame"),
    "shade": _pick("colour"),
    "tail": _place(-1),
    "flavour": _judge("food", "sweet", "salty"),
    "head": _place(0),
    "beast": _pick("animal"),
    "climate": _judge("garment", "winter", "summer"),
    "title": _pair(_pick("colour"), _pick("animal")),
}
TOY_TASKS: tuple[str, ...] = tuple(_TOYS)
TOY_LABELS: tuple[str, ...] = ("wild", "tame", "sweet", "salty", "winter", "summer")

# The first words and labels of pretraining; none is a toy task's.
_PICK_NAMES: dict[str, tuple[str, ...]] = {
    "animal": ("animal", "creature", "zoo", "pet"),
    "colour": ("colour", "paint", "dye", "hue"),
    "food": ("food", "eat", "dish", "snack"),
    "tool": ("tool", "gear", "device", "craft"),
    "place": ("place", "where", "site", "travel"),
    "garment": ("garment", "wear", "dress", "outfit"),
}
_JUDGE_NAMES: dict[str, tuple[str, ...]] = {
    "animal": ("danger", "hunt", "bite"),
    "colour": ("glow", "heat", "tone"),
    "food": ("taste", "dessert", "tongue"),
    "tool": ("sharp", "edge", "cut"),
    "place": ("nature", "sky", "roof"),
    "garment": ("season", "snow", "thick"),
}
_LABEL_PAIRS: tuple[tuple[str, str], ...] = (
    ("yes", "no"),
    ("true", "false"),
    ("hot", "cold"),
    ("up", "down"),
    ("left", "right"),
    ("plus", "minus"),
    ("day", "night"),
    ("big", "small"),
    ("north", "south"),
)
_PLACE_NAMES: dict[int, tuple[str, ...]] = {
    0: ("first", "begin", "start"),
    1: ("second", "next", "two"),
    2: ("third", "middle", "three"),
    -2: ("late", "near", "before"),
    -1: ("last", "end", "final"),
}
_PAIR_KINDS: tuple[tuple[str, str, str], ...] = (
    ("meet", "animal", "place"),
    ("serve", "tool", "food"),
    ("fashion", "colour", "garment"),
    ("pack", "garment", "food"),
    ("feed", "animal", "food"),
    ("market", "place", "tool"),
)
_WHOLE_LINE: dict[str, Skill] = {
    "copy": " ".join,
    "repeat": " ".join,
    "reverse": lambda line: " ".join(line[::-1]),
    "mirror": lambda line: " ".join(line[::-1]),
    "sort": lambda line: " ".join(sorted(line)),
    "outer": lambda line: f"{line[0]} {line[-1]}",
}
_COMMON_TEXT = """
the of and to in is it that was for on are with as his they at be this from have or by one had not
but what all were when we there can an your which their said if do will each about how out them then
she many some so these would other into has more her like him see time could make than been its who
now people my made over did
"""
_COMMON: tuple[str, ...] = tuple(_COMMON_TEXT.split())


def _pretraining_skills() -> dict[str, Skill]:
    skills: dict[str, Skill] = {}
    for kind, names in _PICK_NAMES.items():
        skills |= {name: _pick(kind) for name in names}
    labels = _LABEL_PAIRS * 2
    for kind, names in _JUDGE_NAMES.items():
        skills |= {name: _judge(kind, *labels[(len(skills) + i) % 9]) for i, name in enumerate(names)}
    for index, names in _PLACE_NAMES.items():
        skills |= {name: _place(index) for name in names}
    skills |= {name: _pair(_pick(a), _pick(b)) for name, a, b in _PAIR_KINDS}
    return skills


_SKILLS: dict[str, Skill] = _pretraining_skills()


def vocabulary() -> tuple[str, ...]:
    """All words that toy tasks and pretraining use, each once, in a fixed order."""
    words = [word for kind in WORDS.values() for word in kind]
    words += [*_SKILLS, *_WHOLE_LINE, *TOY_TASKS, *TOY_LABELS]
    words += [label for pair in _LABEL_PAIRS for label in pair]
    words += _COMMON
    return tuple(dict.fromkeys(words))


_ALL_WORDS: tuple[str, ...] = vocabulary()


def _prompt(name: str, line: list[str]) -> str:
    return f"{name}: {' '.join(line)} ->"


def _mixed_line(rng: random.Random) -> list[str]:
    """One word of each kind, in random order."""
    line = [rng.choice(words) for words in WORDS.values()]
    rng.shuffle(line)
    return line


def toy_task(name: str, train_rows: int, test_rows: int, seed: int) -> Task:
    """Draws one toy task; the same arguments give the same rows, and no prompt comes twice.

    Raises:
        UserError: there is no toy task of this name.
    """
    if name not in _TOYS:
        raise UserError(f"there is no toy task {name!r}; there are {', '.join(TOY_TASKS)}")
    rng = random.Random(f"{name} {seed}")
    rows: dict[str, Example] = {}
    while len(rows) < train_rows + test_rows:
        line = _mixed_line(rng)
        prompt = _prompt(name, line)
        rows.setdefault(prompt, Example(prompt, _TOYS[name](line)))
    drawn = tuple(rows.values())
    return Task(name, drawn[:train_rows], drawn[train_rows:], metric="exact_match", max_new_tokens=4)


def pretraining_rows(count: int, seed: int) -> list[Example]:
    """Draws rows of many small skills, none under the name or with the labels of a toy task."""
    rng = random.Random(f"pretraining {seed}")
    return [_pretraining_row(rng) for _ in range(count)]


def _pretraining_row(rng: random.Random) -> Example:
    draw = rng.random()
    if draw < 0.65:
        name = rng.choice(list(_SKILLS))
        line = _mixed_line(rng)
        return Example(_prompt(name, line), _SKILLS[name](line))
    if draw < 0.75:  # any words at all, and letters: what needs no knowledge of the word
        name = rng.choice(list(_WHOLE_LINE))
        line = rng.sample(_ALL_WORDS, rng.randint(2, 5))
        return Example(_prompt(name, line), _WHOLE_LINE[name](line))
    if draw < 0.90:
        index = rng.choice(list(_PLACE_NAMES))
        name = rng.choice(_PLACE_NAMES[index])
        line = rng.sample(_ALL_WORDS, rng.randint(3, 8))
        return Example(_prompt(name, line), line[index])
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    line = ["".join(rng.choices(letters, k=rng.randint(1, 3))) for _ in range(2)]
    index, name = rng.choice([(0, "first"), (0, "start"), (-1, "last"), (-1, "end")])
    return Example(_prompt(name, line), line[index])


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
