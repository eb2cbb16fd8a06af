"""LoRA's matrices keep their dtype and are applied in that of the activations."""

from __future__ import annotations

from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from peft.tuners.lora import LoraLayer

from seekr_lite.model.base import load_base
from seekr_lite.model.lora import AdapterSequence, LoraMatrix
from seekr_lite.recipe.recipe import AdapterSettings, BaseSettings

TOKENS = torch.arange(10, 40)[None]


def adapters(dtype: str, quantization: str = "none", as_peft: bool = False) -> AdapterSequence:
    """Both matrices of every layer are random; dtype: of the base, the adapter has fp32."""
    base = load_base(BaseSettings(model="tiny", quantization=quantization, dtype=dtype, device="cpu"))  # type: ignore[arg-type]
    with patch("seekr_lite.model.lora.apply_in_dtype_of_input") if as_peft else nullcontext():
        made = AdapterSequence(base, AdapterSettings(rank=4, alpha=8.0), seed=0)
    made.start_task()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.trainable_parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def gradients(made: AdapterSequence) -> torch.Tensor:
    made.model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    return torch.cat([one.grad.flatten() for one in made.trainable_parameters() if one.grad is not None])


def kept_bytes(made: AdapterSequence) -> int:
    """What a forward pass keeps for backward, beside the parameters."""
    parameters = {parameter.data_ptr() for parameter in made.model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # by address; held here, so that no other tensor gets the address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made.model(input_ids=TOKENS, labels=TOKENS)
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in parameters)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_every_matrix_is_one(quantization: str) -> None:
    layers = [one for one in adapters("bfloat16", quantization).model.modules() if isinstance(one, LoraLayer)]
    matrices = [matrix for layer in layers for both in (layer.lora_A, layer.lora_B) for matrix in both.values()]
    assert len(matrices) == 2 * len(layers) > 0
    assert {type(matrix) for matrix in matrices} == {LoraMatrix}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_on_a_base_of_fp32_it_is_what_peft_does(quantization: str) -> None:
    ours, theirs = adapters("float32", quantization), adapters("float32", quantization, as_peft=True)
    with torch.no_grad():
        assert torch.equal(ours.model(input_ids=TOKENS).logits, theirs.model(input_ids=TOKENS).logits)
    assert torch.equal(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_on_a_base_of_bf16_gradients_are_those_of_fp32_but_for_rounding(quantization: str) -> None:
    exact = gradients(adapters("float32", quantization))
    ours, theirs = gradients(adapters("bfloat16", quantization)), gradients(adapters("bfloat16", quantization, True))
    assert ours.dtype == torch.float32
    off, theirs_off = ((found - exact).norm() / exact.norm() for found in (ours, theirs))
    assert off < 1.5 * theirs_off  # bf16 activations round either way
    assert off < 0.05


def test_less_is_kept_for_backward_than_by_peft() -> None:
    assert kept_bytes(adapters("bfloat16")) < 0.9 * kept_bytes(adapters("bfloat16", as_peft=True))


def test_an_input_of_fp16_is_widened_since_small_gradients_would_be_lost() -> None:
    matrix = LoraMatrix.of(torch.nn.Linear(4, 2, bias=False))
    states = torch.full((1, 4), 2.0**-20, dtype=torch.float16)
    (2.0**-10 * matrix(states)).sum().backward()
    assert matrix.weight.grad is not None
    assert bool((matrix.weight.grad == 2.0**-30).all())
