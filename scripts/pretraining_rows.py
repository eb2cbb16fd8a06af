"""The rows that the built-in tiny base was trained on: many small skills under names that no toy task has.

They teach what toy tasks need (pick a kind, pick a place, judge a word, pair, reverse, sort, copy) under other first
words and other labels: an adapter binds a new word to an old skill, and a few rows suffice. No command of its own:
`make_tiny_base.py` trains on them.
"""

from __future__ import annotations

import random

from seekr_lite.data.task import Example
from seekr_lite.data.toy import TOY_LABELS, TOY_TASKS, WORDS, Skill, judge, mixed_line, pair, pick, place, prompt_of

# First words and labels; none is a toy task's.
PICK_NAMES: dict[str, tuple[str, ...]] = {
    "animal": ("animal", "creature", "zoo", "pet"),
    "colour": ("colour", "paint", "dye", "hue"),
    "food": ("food", "eat", "dish", "snack"),
    "tool": ("tool", "gear", "device", "craft"),
    "place": ("place", "where", "site", "travel"),
    "garment": ("garment", "wear", "dress", "outfit"),
}
JUDGE_NAMES: dict[str, tuple[str, ...]] = {
    "animal": ("danger", "hunt", "bite"),
    "colour": ("glow", "heat", "tone"),
    "food": ("taste", "dessert", "tongue"),
    "tool": ("sharp", "edge", "cut"),
    "place": ("nature", "sky", "roof"),
    "garment": ("season", "snow", "thick"),
}
LABEL_PAIRS: tuple[tuple[str, str], ...] = (
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
PLACE_NAMES: dict[int, tuple[str, ...]] = {
    0: ("first", "begin", "start"),
    1: ("second", "next", "two"),
    2: ("third", "middle", "three"),
    -2: ("late", "near", "before"),
    -1: ("last", "end", "final"),
}
PAIR_KINDS: tuple[tuple[str, str, str], ...] = (
    ("meet", "animal", "place"),
    ("serve", "tool", "food"),
    ("fashion", "colour", "garment"),
    ("pack", "garment", "food"),
    ("feed", "animal", "food"),
    ("market", "place", "tool"),
)
WHOLE_LINE: dict[str, Skill] = {
    "copy": " ".join,
    "repeat": " ".join,
    "reverse": lambda line: " ".join(line[::-1]),
    "mirror": lambda line: " ".join(line[::-1]),
    "sort": lambda line: " ".join(sorted(line)),
    "outer": lambda line: f"{line[0]} {line[-1]}",
}
COMMON_TEXT = """
the of and to in is it that was for on are with as his they at be this from have or by one had not
but what all were when we there can an your which their said if do will each about how out them then
she many some so these would other into has more her like him see time could make than been its who
now people my made over did
"""
COMMON: tuple[str, ...] = tuple(COMMON_TEXT.split())


def _pretraining_skills() -> dict[str, Skill]:
    skills: dict[str, Skill] = {}
    for kind, names in PICK_NAMES.items():
        skills |= {name: pick(kind) for name in names}
    labels = LABEL_PAIRS * 2
    for kind, names in JUDGE_NAMES.items():
        skills |= {name: judge(kind, *labels[(len(skills) + i) % 9]) for i, name in enumerate(names)}
    for index, names in PLACE_NAMES.items():
        skills |= {name: place(index) for name in names}
    skills |= {name: pair(pick(a), pick(b)) for name, a, b in PAIR_KINDS}
    return skills


SKILLS: dict[str, Skill] = _pretraining_skills()


def vocabulary() -> tuple[str, ...]:
    """All words that toy tasks and pretraining use, each once, in a fixed order."""
    words = [word for kind in WORDS.values() for word in kind]
    words += [*SKILLS, *WHOLE_LINE, *TOY_TASKS, *TOY_LABELS]
    words += [label for pair in LABEL_PAIRS for label in pair]
    words += COMMON
    return tuple(dict.fromkeys(words))


ALL_WORDS: tuple[str, ...] = vocabulary()


def pretraining_rows(count: int, seed: int) -> list[Example]:
    """Draws rows of many small skills, none under the name or with the labels of a toy task."""
    rng = random.Random(f"pretraining {seed}")
    return [_pretraining_row(rng) for _ in range(count)]


def _pretraining_row(rng: random.Random) -> Example:
    draw = rng.random()
    if draw < 0.65:
        name = rng.choice(list(SKILLS))
        line = mixed_line(rng)
        return Example(prompt_of(name, line), SKILLS[name](line))
    if draw < 0.75:  # any words at all, and letters: what needs no knowledge of the word
        name = rng.choice(list(WHOLE_LINE))
        line = rng.sample(ALL_WORDS, rng.randint(2, 5))
        return Example(prompt_of(name, line), WHOLE_LINE[name](line))
    if draw < 0.90:
        index = rng.choice(list(PLACE_NAMES))
        name = rng.choice(PLACE_NAMES[index])
        line = rng.sample(ALL_WORDS, rng.randint(3, 8))
        return Example(prompt_of(name, line), line[index])
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    line = ["".join(rng.choices(letters, k=rng.randint(1, 3))) for _ in range(2)]
    index, name = rng.choice([(0, "first"), (0, "start"), (-1, "last"), (-1, "end")])
    return Example(prompt_of(name, line), line[index])
