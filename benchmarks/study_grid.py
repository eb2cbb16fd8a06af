"""A study: one recipe, varied in a grid of variants, seeds and orders of the tasks, and the claims it is to judge.

A study is a TOML file in `benchmarks/studies/`. It is written and committed before its runs are made: what is compared
with what, and what would count as a difference, is not chosen afterwards. A claim that is, says so in its text.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from seekr_lite.common.errors import UserError, nearest
from seekr_lite.methods.registry import method_class
from seekr_lite.recipe.recipe import Recipe, parse_override, read_recipe_text

STUDIES = Path(__file__).parent / "studies"
ORDER = "1"  # the name of the only order, where a study has one

Measure = Literal["op", "bwt", "nll", "nll_forgetting", "general"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Comparison(_Part):
    """`better` is held to be better than `than`, or `level` at least as good as `than` but for a margin."""

    than: str
    better: str | None = None
    level: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Comparison:
        if (self.better is None) == (self.level is None):
            raise ValueError("a comparison names either better and than, or level and than")
        return self

    @property
    def first(self) -> str:
        return self.better or self.level or ""


class Claim(_Part):
    """A sentence, and the comparisons that all must hold for it."""

    text: str
    measures: tuple[Measure, ...]
    comparisons: tuple[Comparison, ...]


class GeneralText(_Part):
    """Rows of a task that is not learned, whose inputs serve as general text (`seekr_lite.tools.general_text`)."""

    task: str
    rows: int = 40


class Study(_Part):
    """recipe: sections of a recipe. orders: name -> the tasks in that order; by default the recipe's own.

    variants: name -> sections that change the recipe; `replay_fractions` in it makes one variant for each, called
    `name` for the first and `name-fraction` for the others. curves: variants that the charts show. endings: what a
    variant's name ends with -> what that means, in print.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    recipe: dict[str, dict[str, Any]]
    variants: dict[str, dict[str, Any]]
    replay_fractions: tuple[float, ...] = ()
    orders: dict[str, tuple[str, ...]] = {}
    claims: dict[str, Claim] = {}
    curves: tuple[str, ...] = ()
    general: GeneralText | None = None
    notes: str = ""
    endings: dict[str, str] = {}

    @classmethod
    def from_toml(cls, path: Path) -> Study:
        """Raises `UserError` where the file is missing or wrong."""
        try:
            study = cls.model_validate({"name": path.stem, **tomllib.loads(read_recipe_text(path))})
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{path}: this is not valid TOML: {error}") from None
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)]
            raise UserError(f"{path} is no study:\n" + "\n".join(f"  {line}" for line in lines)) from None
        study._check_names(path)
        return study

    def _check_names(self, path: Path) -> None:
        known = study_variants(self)
        asked = [name for claim in self.claims.values() for one in claim.comparisons for name in (one.first, one.than)]
        for name in (*asked, *self.curves):
            if name not in known:
                raise UserError(f"{path}: no variant is called {name}{nearest(name, known)}; it has {', '.join(known)}")

    @property
    def order_names(self) -> tuple[str, ...]:
        return tuple(self.orders) or (ORDER,)


@dataclass(frozen=True)
class Point:
    """One run of a study's grid."""

    study: str
    variant: str
    order: str
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.variant}-order{self.order}-seed{self.seed}"


def find_study(name: str) -> Study:
    """A study by its name, or by the path of its file. Raises `UserError` where there is none."""
    path = Path(name) if name.endswith(".toml") else STUDIES / f"{name}.toml"
    known = sorted(one.stem for one in STUDIES.glob("*.toml"))
    if not path.is_file():
        raise UserError(f"no study is called {name}{nearest(name, known)}; there are {', '.join(known)}")
    return Study.from_toml(path)


def study_variants(study: Study) -> dict[str, dict[str, dict[str, Any]]]:
    """Variant -> the sections that it changes, with a variant for each replay fraction where a method keeps rows."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, changes in study.variants.items():
        sections = {key: value for key, value in changes.items() if key != "replay_fractions"}
        fractions = changes.get("replay_fractions", study.replay_fractions) if _keeps_rows(study, sections) else ()
        if not fractions:
            found[name] = sections
        for index, fraction in enumerate(fractions):
            method = {**sections.get("method", {}), "replay_fraction": fraction}
            found[name if index == 0 else f"{name}-{fraction}"] = {**sections, "method": method}
    return found


def study_points(
    study: Study,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    orders: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> list[Point]:
    """The grid, seed by seed, so that what is there of a grid that was cut short is still paired.

    Raises:
        UserError: an unknown variant, seed or order, or a recipe that is wrong.
    """
    variants = study_variants(study)
    _known("variant", only, variants)
    _known("seed", seeds, study.seeds)
    _known("order", orders, study.order_names)
    return [
        Point(study.name, variant, order, seed, study_recipe(study, variants[variant], order, seed, overrides))
        for seed in seeds or study.seeds
        for order in orders or study.order_names
        for variant in only or variants
    ]


def study_recipe(
    study: Study, changes: Mapping[str, Mapping[str, Any]], order: str, seed: int, overrides: Sequence[str]
) -> Recipe:
    """The study's recipe with overrides, then with changes. Raises `UserError` where it is wrong."""
    sections = {section: dict(values) for section, values in study.recipe.items()}
    for section, key, value in map(parse_override, overrides):
        sections.setdefault(section, {})[key] = value
    if order in study.orders:
        sections["data"]["tasks"], epochs = study.orders[order], sections.get("train", {}).get("epochs")
        if isinstance(epochs, list):  # they go with the tasks, which the recipe has in its own order
            by_task = dict(zip(study.recipe["data"]["tasks"], epochs, strict=True))
            sections["train"]["epochs"] = [by_task[task] for task in study.orders[order]]
    for section, values in changes.items():
        sections.setdefault(section, {}).update(values)
    sections.setdefault("run", {})["seed"] = seed
    return Recipe.from_dict(sections)


def _keeps_rows(study: Study, sections: Mapping[str, Mapping[str, Any]]) -> bool:
    name = sections.get("method", {}).get("name") or study.recipe.get("method", {}).get("name", "seekr")
    method = method_class(name)
    return method.replays or method.keeps_samples


def _known(kind: str, asked: Sequence[Any], known: Sequence[Any] | Mapping[Any, Any]) -> None:
    for one in asked:
        if one not in known:
            raise UserError(f"no {kind} is called {one}{nearest(str(one), map(str, known))}; it has {_listed(known)}")


def _listed(names: Sequence[Any] | Mapping[Any, Any]) -> str:
    return ", ".join(map(str, names))


def all_studies() -> Iterator[Study]:
    """The studies of `benchmarks/studies/`, by name."""
    for path in sorted(STUDIES.glob("*.toml")):
        yield Study.from_toml(path)
