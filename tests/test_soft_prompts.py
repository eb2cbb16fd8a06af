"""Soft prompts: virtual tokens are embeddings in front of a row; PP, L2P and LFPT5 on them; resuming and loading."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import two_toy_tasks
from peft import PeftModel
from test_resume import CutAfter, PowerCut
from test_run import artefacts
from transformers import AutoModelForCausalLM

import seekr_lite as sl
from seekr_lite.common.progress import Listener
from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample, encode_prompts
from seekr_lite.data.readers import load_tasks
from seekr_lite.evaluation.generate import generate
from seekr_lite.methods.l2p import LearningToPrompt, PromptPool
from seekr_lite.methods.lfpt5 import Lfpt5, writing_labels
from seekr_lite.methods.method import ReplayBatch, StepTotals
from seekr_lite.methods.replay_memory import ReplayRow
from seekr_lite.model.answer_states import answer_states
from seekr_lite.model.base import Base, load_base, resolve_model
from seekr_lite.model.soft_prompts import PromptSequence
from seekr_lite.recipe.recipe import AdapterSettings, DataSettings, Recipe
from seekr_lite.training.learner import Learner

MakeRecipe = Callable[..., Recipe]
QUIET = Listener()
METHODS = ("pp", "l2p", "lfpt5")


@pytest.fixture
def small_recipe(tmp_path: Path) -> MakeRecipe:
    """Two toy tasks on a base that is not quantised, which is faster."""
    return partial(two_toy_tasks, tmp_path / "run", base={"quantization": "none"})


@pytest.fixture
def base(small_recipe: MakeRecipe) -> Base:
    return load_base(small_recipe().base)


@pytest.fixture
def prompt(base: Base) -> PromptSequence:
    sequence = PromptSequence(base, AdapterSettings(), seed=0, tokens=4)
    sequence.start_task()
    return sequence


def rows_of(base: Base, *texts: str) -> list[EncodedExample]:
    """Rows of different lengths whose last two tokens are the answer."""
    prompts = encode_prompts(base.tokenizer, texts, DataSettings(format="python", max_prompt_tokens=64))
    return [EncodedExample(row.input_ids, 2) for row in prompts]


def behind(base: Base, vectors: torch.Tensor, row: EncodedExample) -> torch.Tensor:
    """The embeddings of a row behind vectors, as one would write them by hand: `[1, v + n, h]`."""
    embeddings: Any = load_base(two_toy_tasks(Path("run"), base={"quantization": "none"}).base).model
    own = embeddings.get_input_embeddings()(torch.tensor([row.input_ids]))
    return torch.cat([vectors[None], own], 1)


def plain_model() -> Any:
    return load_base(two_toy_tasks(Path("run"), base={"quantization": "none"}).base).model


# ---------------------------------------------------------------------- virtual tokens


@torch.no_grad()
def test_a_prompt_is_embeddings_in_front_of_every_row(base: Base, prompt: PromptSequence) -> None:
    rows = rows_of(base, "shade of the red one is", "keep it", "one two three four")
    states = answer_states(prompt.model, collate(rows, base.tokenizer.pad_token_id))
    found, plain = states.to_logits(states.hidden), plain_model()
    vectors = prompt.student["prompt_embeddings"]
    for index, row in enumerate(rows):
        expected = plain(inputs_embeds=behind(base, vectors, row)).logits[0, -3:]
        torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-4)
    bare = plain(input_ids=torch.tensor([rows[0].input_ids])).logits[0, -3:]
    assert not torch.allclose(found[0], bare, atol=1e-2)  # the prompt does something


@torch.no_grad()
def test_called_as_a_model_it_returns_the_logits_of_the_given_tokens(base: Base, prompt: PromptSequence) -> None:
    (row,) = rows_of(base, "shade of the red one is")
    ids = torch.tensor([row.input_ids])
    expected = plain_model()(inputs_embeds=behind(base, prompt.student["prompt_embeddings"], row)).logits[:, 4:]
    torch.testing.assert_close(prompt.model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_answers_are_those_behind_the_embeddings(base: Base, prompt: PromptSequence) -> None:
    rows = [EncodedExample(row.input_ids, 0) for row in rows_of(base, "shade of the red one is", "keep it")]
    tokenizer = base.tokenizer
    (texts,) = generate(prompt.model, tokenizer, rows, 5, 1000, known={})
    plain = plain_model()
    for index, row in enumerate(rows):
        embeddings = behind(base, prompt.student["prompt_embeddings"], row)
        tokens = []
        for _ in range(5):
            logits = plain(inputs_embeds=embeddings).logits[0, -1]
            tokens.append(int(logits.argmax()))
            if tokens[-1] == tokenizer.eos_token_id:
                break
            embeddings = torch.cat([embeddings, plain.get_input_embeddings()(torch.tensor([[tokens[-1]]]))], 1)
        assert texts[index] == tokenizer.decode(tokens, skip_special_tokens=True)
        ids = torch.tensor([row.input_ids])
        own = prompt.model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        assert own[0, : ids.shape[1]].tolist() == list(row.input_ids)
        assert own[0, ids.shape[1] :].tolist()[: len(tokens)] == tokens


def test_a_snapshot_acts_without_a_trace_and_the_bare_base_is_bare(base: Base, prompt: PromptSequence) -> None:
    batch = collate(rows_of(base, "shade of the red one is"), base.tokenizer.pad_token_id)
    first = answer_states(prompt.model, batch).hidden.detach()
    prompt.finish_task()
    prompt.start_task()
    with torch.no_grad():
        prompt.student["prompt_embeddings"].add_(1.0)
    moved = answer_states(prompt.model, batch).hidden
    with prompt.acting_as(0):
        assert torch.equal(answer_states(prompt.model, batch).hidden, first)
    with prompt.acting_as(None), torch.no_grad():
        bare = plain_model()(input_ids=batch.input_ids, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(answer_states(prompt.model, batch).hidden, bare[:, -3:], rtol=1e-4, atol=1e-4)
    assert torch.equal(answer_states(prompt.model, batch).hidden, moved)
    moved.sum().backward()
    moved = answer_states(prompt.model, batch).hidden
    moved.sum().backward()  # a graph of its own each time
    assert prompt.student["prompt_embeddings"].grad is not None


# ---------------------------------------------------------------------- PP


def test_progressive_prompts_stand_in_front_of_the_frozen_ones_and_forget_nothing(small_recipe: MakeRecipe) -> None:
    recipe = small_recipe(method={"name": "pp", "options": {"tokens": 3}}, evaluate={"rounds": "full"})
    run = sl.run(recipe, listener=QUIET)
    first, second = (run.folder.load_snapshot(index).weights["prompt_embeddings"] for index in (0, 1))
    assert (len(first), len(second)) == (3, 6)
    assert torch.equal(second[3:], first)
    scores = run.scores
    assert scores.nll_matrix[1][0] == scores.nll_matrix[0][0]
    assert scores.matrix[0][1] == scores.base[1]  # type: ignore[index] - before it is learned, a task has no prompt


def test_a_soft_prompt_is_a_prompt_tuning_adapter_of_peft(
    small_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sl.run(small_recipe(method={"name": "pp"}), listener=QUIET)
    monkeypatch.setattr(
        "seekr_lite.tools.export.PROBE_TEXT", "hi"
    )  # of a short text, PEFT has logits of virtual tokens, too
    exported = run.export(tmp_path / "exported")
    assert exported.as_trained.within(torch.float32)
    loaded = run.load_model()
    ids = torch.tensor([loaded.tokenizer("shade of the red one is")["input_ids"]])
    ours = loaded.model(input_ids=ids).logits
    for folder in (run.folder.adapter_folder(1), exported.path):
        plain = AutoModelForCausalLM.from_pretrained(resolve_model("tiny"), dtype=torch.float32)
        theirs = PeftModel.from_pretrained(plain, str(folder))(input_ids=ids).logits[:, -ids.shape[1] :]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- L2P


@pytest.fixture
def pool(base: Base, small_recipe: MakeRecipe) -> PromptPool:
    found = PromptPool(base, small_recipe(), pool=6, length=2, top=2)
    found.start_task()
    return found


def test_each_row_takes_the_prompts_of_its_nearest_keys(base: Base, pool: PromptPool) -> None:
    rows = rows_of(base, "shade of the red one is", "keep it", "one two three four five")
    chosen = pool.choose(collate(rows, base.tokenizer.pad_token_id))
    keys = pool.student["prompt_keys"].detach()
    for index, row in enumerate(rows):
        asked = torch.tensor(row.input_ids[:-2])  # without the answer
        query = pool.model.token_embeddings(asked).mean(0)
        cosines = [float(query @ key / query.norm() / key.norm()) for key in keys]
        first, second = sorted(range(6), key=lambda place: -cosines[place])[:2]
        assert chosen[index].tolist() == [2 * first, 2 * first + 1, 2 * second, 2 * second + 1]
    answerless = [EncodedExample(row.input_ids[:-2], 0) for row in rows]
    fronts = [row.input_ids[:4] for row in pool.model.rows_with_prompt(answerless)]
    assert [[one - pool.model.first_id for one in front] for front in fronts] == chosen.tolist()  # as when tested


def test_l2p_pulls_chosen_keys_to_the_query_and_leaves_the_others(base: Base, small_recipe: MakeRecipe) -> None:
    recipe = small_recipe(method={"name": "l2p", "options": {"pool": 6, "length": 2, "top": 2}})
    method = LearningToPrompt(recipe.method, pool := LearningToPrompt.make_adapters(base, recipe), 0)
    pool.start_task()
    (row,) = rows_of(base, "shade of the red one is")
    batch = collate([row], base.tokenizer.pad_token_id)
    _, term = method.new_task_loss(batch, StepTotals(2, 1))
    query = pool.model.token_embeddings(torch.tensor(row.input_ids[:-2])).mean(0)
    cosines = F.cosine_similarity(query, pool.student["prompt_keys"].detach(), dim=-1)
    assert float(term.value.detach()) == pytest.approx(float((1 - cosines.topk(2).values).sum()), rel=1e-5)
    (gradient,) = torch.autograd.grad(term.value, pool.student["prompt_keys"])
    moved = gradient.abs().sum(-1) > 0
    assert sorted(cosines.topk(2).indices.tolist()) == moved.nonzero()[:, 0].tolist()


# ---------------------------------------------------------------------- LFPT5


def test_what_is_written_is_the_prompt_and_an_end_token() -> None:
    batch = collate([EncodedExample((5, 6, 7, 8), 1), EncodedExample((5, 9, 8, 8), 2), EncodedExample((4, 8), 1)], 0)
    none = -100
    assert writing_labels(batch, 2).tolist() == [[5, 6, 7, 2], [5, 9, 2, none], [none, none, 4, 2]]


def test_the_writing_loss_is_the_likelihood_of_the_prompt_behind_the_writing_vector(
    base: Base, small_recipe: MakeRecipe
) -> None:
    recipe = small_recipe(method={"name": "lfpt5", "options": {"tokens": 3}})
    method = Lfpt5(recipe.method, sequence := Lfpt5.make_adapters(base, recipe), 0)
    sequence.start_task()
    rows = rows_of(base, "shade of the red one is", "keep it")
    vectors = torch.cat([sequence.student["prompt_embeddings"], sequence.student["generation_embedding"]])
    expected, plain = 0.0, plain_model()
    for row in rows:
        written = torch.tensor([*row.input_ids[:-2], base.tokenizer.eos_token_id])
        logits = plain(inputs_embeds=behind(base, vectors, row)).logits[0, 3 : 3 + len(written)]
        expected += float(F.cross_entropy(logits, written).detach())
    batch = collate(rows, base.tokenizer.pad_token_id)
    assert float(method.writing_loss(batch).detach()) == pytest.approx(expected, rel=1e-4)


def test_pseudo_rows_are_kept_in_place_of_real_ones_and_distilled(small_recipe: MakeRecipe) -> None:
    recipe = small_recipe(method={"name": "lfpt5", "replay_fraction": 0.2}, train={"epochs": 2})
    first, second = load_tasks(recipe.data)
    learner = Learner(recipe)
    samples = learner.learn(first).samples
    assert 0 < len(samples) <= 6  # a fifth of 32 rows, without empty ones
    assert all(row.prompt.strip() for row in samples)
    assert not {(row.prompt, row.answer) for row in samples} & {(row.prompt, row.answer) for row in first.train}
    learner.adapters.start_task()
    batch, old = replay_batch(learner)
    with torch.no_grad():
        learner.adapters.student["prompt_embeddings"].add_(0.05)
    terms = {term.name: term for term in learner.method.replay_loss(old, StepTotals(answer_tokens(batch), 1))}
    with torch.no_grad():
        new = plain_logits(learner, batch)
        with learner.adapters.acting_as(0):
            before = plain_logits(learner, batch)
    kl = F.kl_div(new.log_softmax(-1), before.softmax(-1), reduction="batchmean")
    entropy = -(before.softmax(-1) * before.log_softmax(-1)).sum(-1).mean()
    assert kl > 1e-4
    assert float(terms["logits_distillation"].value.detach()) == pytest.approx(float(kl + entropy), rel=1e-3)
    assert second.train  # the next task is there to learn


def test_a_pseudo_row_that_came_to_no_end_is_kept_only_where_whole_ones_are_too_few(small_recipe: MakeRecipe) -> None:
    recipe = small_recipe(
        method={"name": "lfpt5", "replay_fraction": 0.2, "options": {"learning_rate_factor": 3.0}}, train={"epochs": 2}
    )
    learner = Learner(recipe)
    learner.learn(load_tasks(recipe.data)[0])
    assert isinstance(learner.method, Lfpt5)

    def lengths(count: int, most: int) -> list[int]:
        with learner.adapters.acting_as(0):
            texts = learner.method._write_prompts(0, count, most)
        return [len(ids) for ids in learner.base.tokenizer(texts)["input_ids"]]

    assert max(lengths(3, 64)) < 64  # of as many as there are whole ones, none was cut off
    assert len(lengths(3, 1)) == 3  # nothing ends after one token


def test_pseudo_rows_are_written_in_batches_of_so_many_tokens(
    small_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(method={"name": "lfpt5", "replay_fraction": 0.2}, train={"epochs": 1})
    learner = Learner(recipe)
    causal, sizes = learner.adapters.model.get_base_model(), []
    generate = causal.generate

    def watched(**options: Any) -> Any:
        sizes.append(options["input_ids"].numel() + len(options["input_ids"]) * options["max_new_tokens"])
        return generate(**options)

    monkeypatch.setattr(causal, "generate", watched)
    monkeypatch.setattr("seekr_lite.methods.lfpt5.TOKENS_AT_ONCE", 2 * (recipe.data.max_prompt_tokens + 30))
    learner.learn(load_tasks(recipe.data)[0])
    assert len(sizes) >= 3  # six rows, two at a time
    assert max(sizes) <= 2 * (recipe.data.max_prompt_tokens + 30)


def replay_batch(learner: Learner) -> tuple[Batch, ReplayBatch]:
    (row,) = learner.encode(learner.memory[0][:1])
    batch = collate([row], learner.base.tokenizer.pad_token_id)
    return batch, ReplayBatch(batch, [ReplayRow(0, 0, row)])


def answer_tokens(batch: Batch) -> int:
    return int((batch.labels != -100).sum())


def plain_logits(learner: Learner, batch: Batch) -> torch.Tensor:
    """Logits that predict the answer: `[tokens, vocabulary]`."""
    logits: torch.Tensor = learner.adapters.model(input_ids=batch.input_ids).logits
    return logits[:, :-1][batch.labels[:, 1:] != -100].float()


# ---------------------------------------------------------------------- all of them


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, sl.Run]:
    """A run of each of the methods."""
    folder = tmp_path_factory.mktemp("prompts")
    make = partial(two_toy_tasks, base={"quantization": "none"}, run={"checkpoint_steps": 1})
    return {name: sl.run(make(folder / name, method={"name": name}), folder / name, listener=QUIET) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_a_power_cut_changes_nothing(name: str, finished: dict[str, sl.Run], tmp_path: Path) -> None:
    whole = finished[name]
    with pytest.raises(PowerCut):
        sl.run(whole.recipe, output=tmp_path / "cut", listener=CutAfter(3))  # inside the second task
    assert artefacts(sl.run(whole.recipe, output=tmp_path / "cut", listener=QUIET).path) == artefacts(whole.path)


@pytest.mark.parametrize("name", METHODS)
def test_the_model_of_a_run_answers_as_the_run_did(name: str, finished: dict[str, sl.Run]) -> None:
    run = finished[name]
    last = run.tasks[-1]
    predicted = run.folder.load_predictions(1, last)[0]
    assert run.load_model().generate(predicted.prompt) == predicted.prediction
    (tested,) = run.evaluate(after=last, tasks=[last])
    assert tested.score == run.scores.matrix[1][1]
    (again,) = run.evaluate(after=run.tasks[0], tasks=[last])  # which the run has not tested
    assert not again.from_run


def test_they_stand_side_by_side(finished: dict[str, sl.Run]) -> None:
    compared = sl.compare(*finished.values())
    assert {one.method for one in compared.runs} == set(METHODS)
    assert all(one.finished and one.nll is not None for one in compared.runs)


def test_what_a_soft_prompt_cannot_do_is_said(finished: dict[str, sl.Run], tmp_path: Path) -> None:
    with pytest.raises(sl.UserError, match="a soft prompt cannot be merged"):
        finished["pp"].export(tmp_path / "merged", merge="original")
    with pytest.raises(sl.UserError, match="PEFT does not know"):
        finished["l2p"].export(tmp_path / "pool")
    with pytest.raises(sl.UserError, match="adapters alone are sent"):
        finished["pp"].push("me/prompt", base_model="someone/tiny")
    with pytest.raises(sl.UserError, match="learned soft prompts"):
        finished["pp"].harness_scores(["arc_easy"], after=["base"])
    with pytest.raises(sl.UserError, match="soft prompt"):
        sl.score_task_heads(finished["pp"].recipe, "shade", run=finished["pp"])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "l2p", "options": {"pool": 2, "top": 3}}, "at most as many as the pool has"),
        ({"name": "pp", "options": {"tokens": 0}}, "allowed are 1 to"),
        ({"name": "pp", "options": {"tokens": 5000}}, "and a soft prompt of 10000"),
    ],
)
def test_prompts_that_cannot_be_are_refused(method: dict[str, Any], message: str, small_recipe: MakeRecipe) -> None:
    with pytest.raises(sl.UserError, match=message):
        sl.run(small_recipe(method=method), listener=QUIET)
