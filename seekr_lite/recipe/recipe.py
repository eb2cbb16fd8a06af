"""What to run: a recipe, typed and validated, from TOML with overrides.

Every key of a recipe is a field of a section below. All errors of a recipe are collected and shown at once, each
with file, line, key, what is allowed and the nearest right spelling (`problems.py`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seekr_lite.common.errors import MAX_RECIPE_BYTES, MAX_RECIPE_DEPTH, MAX_RECIPE_DOTS, UserError
from seekr_lite.common.files import user_path
from seekr_lite.recipe.method_names import recipe_defaults
from seekr_lite.recipe.problems import RecipeSource, check_keys_together, describe_errors

Positive = Annotated[int, Field(gt=0, le=1_000_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e9)]
# A number of layers, heads or queries; or the share of what the model has.
Budget = Annotated[
    Annotated[int, Field(strict=True, gt=0)] | Annotated[float, Field(strict=True, gt=0, lt=1)] | Literal["all"],
    Field(),
]


class Section(BaseModel):
    """A section of a recipe: frozen, no unknown keys, no silent conversions, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)


class BaseSettings(Section):
    """`[base]`: the frozen base model."""

    model: str = Field(min_length=1, description='A hub id, a local folder, or "tiny" (built in).')
    quantization: Literal["nf4", "fp4", "int8", "none"] = Field(
        "nf4", description="How the base is stored. nf4 and fp4 use double quantisation."
    )
    dtype: Literal["auto", "float64", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="What is computed in: auto is bfloat16 on a GPU that has it, float32 on a CPU; float64 for checks.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes the GPU where there is one.")
    attention: Literal["sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "eager"] = Field(
        "sdpa", description="transformers' attention kernel; SEEKR looks into all but eager. flash needs its package."
    )
    revision: str | None = Field(None, description="A commit or tag of the hub id, to pin it.")


class AdapterSettings(Section):
    """`[adapter]`: the LoRA adapter that each task gets (Hu et al. 2021, arXiv 2106.09685)."""

    rank: Positive = Field(16, description="Rank r of the update B A.")
    alpha: Annotated[float, Field(gt=0, le=1e6)] = Field(32.0, description="The update is scaled by alpha / rank.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout on the adapter's input.")
    targets: Literal["all-linear", "attention"] | tuple[str, ...] = Field(
        "all-linear",
        description="all-linear, attention (projections of attention only), or names of modules.",
    )
    dtype: Literal["float64", "float32", "bfloat16"] = Field(
        "float32",
        description="What the adapter is kept and updated in; it is applied in the base's dtype. bfloat16: smaller, "
        "and small steps round away. float64: for checks.",
    )
    growth: Literal["continue", "stack"] = Field(
        "continue",
        description="continue: adapter k starts from the weights of adapter k-1. "
        "stack: a fresh LoRA on top of the frozen ones; saved as one adapter of rank (k+1) r.",
    )


class DataSettings(Section):
    """`[data]`: the tasks, in the order in which they are learned."""

    format: Literal["trace", "superni", "jsonl", "datasets", "toy", "python"] = Field(
        description="Which reader. python: tasks are handed over through the Python API."
    )
    path: str | None = Field(None, description="The folder (or hub id) that holds the tasks.")
    tasks: tuple[str, ...] = Field((), description="Names of the tasks, in the order of learning.")
    train_limit: Positive | None = Field(None, description="At most so many training rows a task.")
    test_limit: Positive | None = Field(None, description="At most so many test rows a task.")
    validation_rows: Count = Field(
        40, description="Rows a task held out of training and replay (at most a fifth of them), for the NLL."
    )
    max_prompt_tokens: Positive = Field(1024, description="A longer prompt loses its left end.")
    max_answer_tokens: Positive = Field(512, description="A longer answer loses its right end, never its end token.")
    chat_template: bool = Field(False, description="Render prompts with the tokenizer's chat template.")
    prompt_column: str = Field("prompt", description="Column of the prompt (jsonl, datasets).")
    answer_column: str = Field("answer", description="Column of the answer (jsonl, datasets).")
    train_split: str = Field("train", description="Split to learn from (datasets).")
    test_split: str = Field("test", description="Split to be judged on (datasets).")
    metric: str | None = Field(None, description="Metric of every task; otherwise the reader's choice.")
    extraction: str | None = Field(None, description="Extraction of every task; otherwise the reader's choice.")


class TrainSettings(Section):
    """`[train]`: how one task is learned. The optimizer (AdamW) starts afresh with each task."""

    epochs: Positive | tuple[Positive, ...] = Field(3, description="One number, or one per task.")
    learning_rate: Annotated[float, Field(gt=0, le=10)] = Field(2e-4, description="Peak learning rate.")
    batch_size: Positive = Field(16, description="New rows per optimizer step, whatever the micro-batches.")
    micro_batch_tokens: Positive = Field(
        4096,
        description="Padded tokens that pass the model at once; memory, not results, depends on it. Where memory runs "
        "out it shrinks by itself.",
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = Field(
        "adamw", description="8-bit ones keep their state in a quarter of the memory; paged ones move it to the host."
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.95), description="AdamW's betas (SEEKR's values)."
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="AdamW's weight decay.")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="After the warm-up.")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Share of a task's steps that warm up.")
    clip_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="Largest norm of a step's gradient.")
    on_bad_loss: Literal["skip", "stop"] = Field(
        "skip",
        description="A step whose loss or gradient is not finite never changes the adapter. skip: its rows are named "
        "in the log, and training goes on. stop: the run stops.",
    )
    bad_steps_limit: Positive = Field(3, description="So many such steps in a row stop the run (skip).")
    checkpointing: bool = Field(
        True, description="Recompute activations in the backward pass: far less memory, about a third slower."
    )


class MethodSettings(Section):
    """`[method]`: how old tasks are kept. Keys that a method does not use are ignored by it."""

    name: str = Field(
        "seekr",
        min_length=1,
        description="sequential, replay, derpp, seekr, seekr-paper, ewc, lwf, olora, pp, l2p, lfpt5, joint or isolated "
        "(docs/methods.md); or one of your own (docs/extending.md).",
    )
    replay_fraction: Fraction = Field(0.01, description="Share of a task's training rows kept; at least one row.")
    replay_choice: Literal["random", "stratified", "first"] = Field(
        "random",
        description="stratified: random, but spread over the answers of a task; first: the official code.",
    )
    replay_passes: Annotated[float, Field(gt=0, le=10_000)] = Field(
        1.0, description="How often each old row is seen in an epoch (seekr: 12; 1 in the official code)."
    )
    replay_step: Literal["shared", "own"] = Field(
        "shared", description="Replay rows join a step of new rows, or get optimizer steps of their own (seekr: own)."
    )
    replay_weight: Weight = Field(
        1.0, description="Weight of a replay row against a new row of its step; of the loss in a step of its own."
    )
    cross_entropy_weight: Weight = Field(0.5, description="Cross-entropy of replay rows (derpp, seekr).")
    logits_weight: Weight = Field(0.5, description="Distillation of logits on replay rows (derpp, seekr).")
    logits_positions: Literal["predictions", "labels"] = Field(
        "predictions",
        description="predictions: the positions that predict the answer, which are what the model says of it. "
        "labels: the positions that hold it, one to the right, as in the official code: it skips the answer's first "
        "token and distils what comes after its end.",
    )
    attention_weight: Weight = Field(
        1000.0, description="Distillation of attention maps (seekr: 30; seekr-paper: 1000, the paper's)."
    )
    layer_budget: Budget = Field(0.75, description="Layers whose heads may be held: a number, a share, or all.")
    head_budget: Budget = Field(0.125, description="Heads held for each task: a number, a share, or all.")
    query_budget: Annotated[int, Field(strict=True, gt=0)] | Literal["all"] = Field(
        "all",
        description="Query rows of a sample that are compared (100 in the paper, all in the official code).",
    )
    selection: Literal["seekr", "sensitivity", "forgettability", "random", "all"] = Field(
        "seekr", description="What chooses the heads; all but seekr are ablations."
    )
    accumulate: Literal["sum_of_products", "product_of_sums"] = Field(
        "sum_of_products",
        description="How importance adds up over tasks: the official code's way, or the paper's.",
    )
    options: dict[str, bool | int | float | str] = Field(
        {},
        description="A method's own settings, where it has some beside these: `options = { strength = 0.5 }`; one of "
        "them by `--set method.options.strength=0.5`.",
    )

    @model_validator(mode="after")
    def _take_defaults_of_the_method(self) -> MethodSettings:
        """Not as values that were set: another method that takes its place (`Recipe.with_`) has its own."""
        for key, value in recipe_defaults(self.name).items():
            if key not in self.model_fields_set:
                self.__dict__[key] = value
        return self

    @classmethod
    def check_defaults(cls, name: str, defaults: Mapping[str, Any]) -> None:
        """Raises `UserError` where the `recipe_defaults` of a method are no values of this section."""
        try:
            cls.model_validate({**defaults, "name": name})
        except ValidationError as error:
            wrong = "; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors(include_url=False))
            raise UserError(f'the method "{name}": recipe_defaults: {wrong}') from None


class EvaluateSettings(Section):
    """`[evaluate]`: when and how the tasks are tested."""

    rounds: Literal["last", "diagonal-and-last", "full"] = Field(
        "diagonal-and-last",
        description="last: every task after the last. diagonal-and-last: each task after itself too (BWT). "
        "full: every task after every task, and on the bare base (FWT).",
    )
    batch_tokens: Positive = Field(8192, description="Tokens (prompt and answer, padded) generated at once.")


class RunSettings(Section):
    """`[run]`: where and how."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(1234, description="Same seed, same run, on a CPU to the bit.")
    output: str | None = Field(None, description="The run folder; by default runs/<name of the recipe>.")
    checkpoint_minutes: Annotated[float, Field(gt=0)] | None = Field(
        10.0, description="Inside a task, the state is saved when so many minutes have passed since the last time."
    )
    checkpoint_steps: Positive | None = Field(None, description="And every so many optimizer steps.")
    memory_limit_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="GiB of the GPU that the run may take; `plan` says what fits, and a run never takes more."
    )
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="Where losses and scores are sent besides log.jsonl. Each needs its extra of the installation."
    )


class Recipe(Section):
    """A whole recipe. Frozen: `with_` makes a changed copy."""

    base: BaseSettings
    adapter: AdapterSettings = AdapterSettings()
    data: DataSettings
    train: TrainSettings = TrainSettings()
    method: MethodSettings = MethodSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    run: RunSettings = RunSettings()

    def epochs_of(self, task_index: int) -> int:
        """Epochs of the task at `task_index`; the last number holds for tasks beyond the list."""
        epochs = self.train.epochs
        return epochs if isinstance(epochs, int) else epochs[min(task_index, len(epochs) - 1)]

    def with_(self, **sections: Mapping[str, Any]) -> Recipe:
        """A copy with some keys changed: `recipe.with_(method={"name": "replay"}, run={"seed": 1})`.

        Keys of `[method]` that were never set are those of the method, also where its name changes; then `options`,
        which are the other method's own, are left out. In the recipe of a run folder every key is set: change the name
        in the recipe that you wrote.

        Raises:
            UserError: an unknown section or key, or a value that is not allowed.
        """
        values = self.model_dump()
        values["method"] = self.method.model_dump(exclude_unset=True)
        if sections.get("method", {}).get("name", self.method.name) != self.method.name:
            values["method"].pop("options", None)
        for section, changes in sections.items():
            values[section] = {**values.get(section, {}), **changes}  # an unknown one is named by validation
        return Recipe.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: RecipeSource | None = None) -> Recipe:
        """Validates plain values. Raises `UserError` with every problem, one a line."""
        source = source or RecipeSource("the recipe", "")
        values = _tuples(values, source.name)
        problems = check_keys_together(values)
        try:
            recipe = cls.model_validate(values)
        except ValidationError as error:
            raise UserError(describe_errors(error, problems, cls, source)) from None
        if problems:
            raise UserError(describe_errors(None, problems, cls, source))
        return recipe

    @classmethod
    def from_toml(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Reads a recipe file, then applies overrides of the form `section.key=value` (the value in TOML; a bare
        word is taken as text).

        Raises:
            UserError: the file is missing, is not TOML, or the recipe is wrong.
        """
        path = user_path(path)
        recipe = cls.from_text(read_recipe_text(path), path, overrides)
        if recipe.run.output is None:
            recipe = recipe.with_(run={"output": f"runs/{path.stem}"})
        return recipe

    @classmethod
    def from_text(cls, text: str, path: Path, overrides: Sequence[str] = ()) -> Recipe:
        """`from_toml` for a text; `path` is where it comes from, for messages."""
        refuse_endless_keys(text, path)
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a plain ValueError
            raise UserError(f"{path}: this is not valid TOML: {error}") from None
        source = RecipeSource(str(path), text)
        for override in overrides:
            section, key, value = parse_override(override)
            table = values.setdefault(section, {})
            if not isinstance(table, dict):
                raise UserError(f"{path}: {section} must be a table, [{section}]")
            outer, dot, option = key.partition(".")
            if dot and (section, outer) == ("method", "options"):
                given = table.get(outer)
                key, value = outer, (given if isinstance(given, dict) else {}) | {option: value}
            table[key] = value
            source.overridden[(section, key)] = override
        return cls.from_dict(values, source)

    def by_key(self) -> dict[str, Any]:
        """`section.key` -> value."""
        return {f"{section}.{key}": value for section, part in self.model_dump().items() for key, value in part.items()}

    def to_toml(self, sections: Sequence[str] = ()) -> str:
        """The recipe, or some sections of it, as TOML with every key written out: a run folder says all that it was
        made from."""
        return tomli_w.dumps(self.model_dump(include=set(sections) or None, exclude_none=True))


def read_recipe_text(path: Path) -> str:
    """The text of a recipe file. Raises `UserError` where there is none."""
    try:
        with path.open("rb") as file:  # a pipe is welcome, and may be endless
            content = file.read(MAX_RECIPE_BYTES + 1)
        if len(content) > MAX_RECIPE_BYTES:
            raise UserError(f"{path}: larger than {MAX_RECIPE_BYTES:,} bytes; this is no recipe")
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such recipe file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a recipe: {error}") from None


def parse_override(override: str) -> tuple[str, str, Any]:
    """`train.epochs=[5, 5]` -> ("train", "epochs", [5, 5])."""
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise UserError(f"--set {override}: write section.key=value, for example --set method.name=replay")
    try:
        refuse_endless_keys(text, Path("--set"))
        parsed = tomllib.loads(f"value = {text}")
        value = parsed["value"] if set(parsed) == {"value"} else text
    except (ValueError, RecursionError):
        value = text  # a bare word: --set method.name=replay
    return section, key, value


def refuse_endless_keys(text: str, path: Path) -> None:
    """Raises `UserError` where a line has so many dots outside of texts that the TOML reader would not come back."""
    whole = '"""' in text or "'''" in text  # texts of several lines: where they end is not looked for
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > MAX_RECIPE_DOTS and (whole or _outside_texts(line).count(".") > MAX_RECIPE_DOTS):
            raise UserError(f"{path}:{number}: a key has at most {MAX_RECIPE_DEPTH} parts; this line has too many dots")


def _outside_texts(line: str) -> str:
    return re.sub(r""""(?:[^"\\]|\\.)*+"?|'[^']*+'?""", "", line).partition("#")[0]


def _tuples(value: Any, name: str, depth: int = 0) -> Any:
    """TOML and JSON know lists only; recipes hold tuples, since they are frozen."""
    if depth > MAX_RECIPE_DEPTH:
        raise UserError(f"{name}: nested more than {MAX_RECIPE_DEPTH} deep; a recipe has sections, keys and lists")
    if isinstance(value, Mapping):
        return {key: _tuples(item, name, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(item, name, depth + 1) for item in value)
    return value
