"""The benchmark measures a right rival, and runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.distill_step import QUICK, Case, backward, build_base, build_method, step_cases
from benchmarks.golden_case import SHAPE_KEYS
from benchmarks.official_attention import ChosenHeads, OfficialDistillation, TeacherMaps, official_attention
from benchmarks.tests.conftest import GOLDEN, result_of
from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample

pytestmark = pytest.mark.benchmarks


class Rival:
    """A folder of golden numbers, and the official way's losses of its student."""

    def __init__(self, folder: Path, checkpointing: bool) -> None:
        self.expected = json.loads((folder / "expected.json").read_text())
        config = json.loads((folder / "config.json").read_text())
        config = {key: config[key] for key in SHAPE_KEYS}
        self.model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="sdpa", dtype="float32"))
        rows = zip(self.expected["sequences"], self.expected["answer_lengths"], strict=True)
        self.batch = collate([EncodedExample(tuple(ids), length) for ids, length in rows], config["pad_token_id"])
        selected = self.expected["selected_heads"]
        heads = [(int(layer), head) for layer, of_layer in selected.items() for head in of_layer]
        chosen = ChosenHeads.of([heads] * len(self.batch.labels), self.batch.attention_mask, torch.float32)
        teacher = TeacherMaps(chosen)
        self.distillation = OfficialDistillation(chosen, teacher)
        with official_attention(self.model):
            self.model.load_state_dict(load_file(folder / "teacher.safetensors"))
            with torch.no_grad():
                run(self.model, self.batch, teacher)
            self.model.load_state_dict(load_file(folder / "student.safetensors"))
            if checkpointing:
                self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.train()
            run(self.model, self.batch, self.distillation)
            self.distillation.loss().backward()  # type: ignore[no-untyped-call]


def run(model: Any, batch: Batch, reader: Any) -> None:
    model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        map_reader=reader,
    )


@pytest.fixture(params=["mha_full", "gqa_full", "mha_padded"])
def folder(request: pytest.FixtureRequest) -> Path:
    folder: Path = GOLDEN / request.param
    if not (folder / "expected.json").exists():
        pytest.skip(f"../shared/golden/{request.param} is not here")
    return folder


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_rival_has_the_official_losses_and_gradients(folder: Path, checkpointing: bool) -> None:
    rival = Rival(folder, checkpointing)
    expected = rival.expected
    for layer, loss in expected["attn_distill_loss_per_layer"].items():
        assert float(rival.distillation.losses[int(layer)].detach()) == pytest.approx(loss, rel=1e-4)
    assert float(rival.distillation.loss().detach()) == pytest.approx(expected["attn_distill_loss"], rel=1e-4)
    parameters = dict(rival.model.named_parameters())
    for name, projection in expected["grad_projections"]["attention"].items():
        gradient = parameters[name].grad
        assert gradient is not None
        gradient = gradient.double().flatten()
        direction = torch.cos(0.7 * torch.arange(len(gradient), dtype=torch.float64) + 0.3)
        # Where the product all but cancels, fp32 leaves an error that goes with the lengths, not with the result.
        cancelled = 1e-6 * float(gradient.norm() * direction.norm())
        assert abs(float(gradient @ direction) - projection) <= max(1e-4 * abs(projection), cancelled), name


@pytest.mark.core
def test_ours_and_the_rival_are_the_same_loss_and_gradients() -> None:
    shape = dataclasses.replace(QUICK, dtype="float32")
    method = build_method(build_base(shape, torch.device("cpu"), four_bit=False), shape)

    def run_case(case: Case) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        with case.around():
            roots = case.forward()
            backward(roots)
        return roots[0][0].detach(), [parameter.grad for parameter in method.adapters.trainable_parameters()]

    cases = {case.name: case for case in step_cases(method, shape, tokens=32)}
    expected = run_case(cases["our replay"])
    for name in ("our replay, no checkpointing", "official replay", "official replay, checkpointed"):
        torch.testing.assert_close(run_case(cases[name]), expected, rtol=1e-4, atol=1e-6)


def test_the_benchmark_runs_and_ours_keeps_fewer_bytes(tmp_path: Path) -> None:
    made = result_of("distill_step", tmp_path / "results" / "quick.json", "--quick")
    for length in made["lengths"]:
        cases, ratios = length["cases"], length["ratios"]
        assert all(case["failure"] is None and case["median_seconds"] > 0 for case in cases.values())
        assert all(ratio is not None for ratio in ratios.values())
        assert cases["our replay"]["saved_bytes"] < cases["official replay"]["saved_bytes"]
        assert ratios["attention term: official bytes / ours"] > 1
