"""Train mode and eval mode: what drops out inside the block, and what every module is afterwards."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from seekr_lite.common.train_mode import train_mode_without_dropout
from seekr_lite.model.base import checkpoint_activations


def test_nothing_drops_out_not_even_in_attention() -> None:
    """GPT-2 hands its attention a number, which no dropout module knows of."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
    model = GPT2LMHeadModel(GPT2Config(**sizes, attn_pdrop=0.5)).train()
    ids = torch.arange(20)[None]
    with train_mode_without_dropout(model):
        first, second = (model(input_ids=ids).logits for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert all(module.training for module in model.modules())


def test_layers_are_checkpointed_inside() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=32, n_layer=2, n_head=4)).eval()
    checkpoint_activations(model)
    runs: list[int] = []
    model.transformer.h[0].attn.register_forward_pre_hook(lambda *_: runs.append(1))
    with train_mode_without_dropout(model):
        embeddings = model.get_input_embeddings()(torch.arange(20)[None]).detach().requires_grad_()
        model(inputs_embeds=embeddings).logits.sum().backward()
    assert len(runs) == 2  # once forward, and again for the backward pass
