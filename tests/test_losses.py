"""The losses of answers: in chunks, from hidden states, and equal to those of whole logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as tf

from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.model.answer_states import AnswerStates, answer_labels, answer_span, answer_states
from seekr_lite.model.losses import chunked_sum, cross_entropy_sum, soft_cross_entropy_sum

pytestmark = pytest.mark.core

BATCH = collate([EncodedExample(tuple(range(3, 12)), 4), EncodedExample((5, 20, 8, 17, 30), 2)], pad_token_id=0)
UNPADDED = collate([EncodedExample(tuple(range(3, 12)), 4)], pad_token_id=0)
SPAN = answer_span(BATCH)
LABELS = answer_labels(BATCH, SPAN)
SIZES: dict[str, Any] = {
    "vocab_size": 41,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
}


def llama() -> Any:
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES)).double().eval()


def granite() -> Any:
    """Divides its logits by a constant."""
    torch.manual_seed(0)
    return tf.GraniteForCausalLM(tf.GraniteConfig(**SIZES, logits_scaling=3.0)).double().eval()


def gemma_2() -> Any:
    """Caps its logits. Its eager attention makes padding NaN in fp64, so it gets no padding here."""
    torch.manual_seed(0)
    config = tf.Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0, attn_implementation="eager")
    return tf.Gemma2ForCausalLM(config).double().eval()


def whole_logits(model: Any, batch: Batch = BATCH) -> torch.Tensor:
    logits: torch.Tensor = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
    ).logits
    return logits


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    """Of everything but the output layer, which is frozen."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(loss, parameters))


def frozen_head(model: Any) -> Any:
    model.get_output_embeddings().requires_grad_(False)
    return model


@pytest.mark.parametrize("make", [llama, granite, gemma_2])
def test_states_make_the_models_logits(make: Any) -> None:
    model = frozen_head(make())
    states = answer_states(model, UNPADDED)
    logits = whole_logits(model, UNPADDED)[:, -answer_span(UNPADDED) - 1 :]
    torch.testing.assert_close(states.to_logits(states.hidden), logits, rtol=1e-12, atol=1e-12)


def test_a_plain_output_layer_runs_on_the_answers_only() -> None:
    model = frozen_head(llama())
    widths = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: widths.append(output.shape))
    answer_states(model, BATCH)  # the first time, a probe
    widths.clear()
    cross_entropy_sum(answer_states(model, BATCH), LABELS).backward()
    assert widths == [(6, 41)]


@pytest.mark.parametrize("make", [llama, granite, gemma_2])
def test_cross_entropy_is_that_of_whole_logits(make: Any) -> None:
    model = frozen_head(make())
    batch = UNPADDED if make is gemma_2 else BATCH
    labels = answer_labels(batch, answer_span(batch))
    actual = cross_entropy_sum(answer_states(model, batch), labels)
    shifted = whole_logits(model, batch)[:, :-1].flatten(0, 1).float()
    expected = F.cross_entropy(shifted, batch.labels[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients(model, actual), gradients(model, expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("positions", "shift"), [("predictions", 1), ("labels", 0)])
def test_soft_cross_entropy_is_that_of_whole_logits(positions: str, shift: int) -> None:
    student, teacher = frozen_head(llama()), frozen_head(llama())
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        theirs = answer_states(teacher, BATCH)
    actual = soft_cross_entropy_sum(answer_states(student, BATCH), theirs, LABELS, positions)
    rows, columns = torch.nonzero(BATCH.labels != -100, as_tuple=True)
    ours = whole_logits(student)[rows, columns - shift].log_softmax(-1)
    target = whole_logits(teacher)[rows, columns - shift].softmax(-1).detach()
    expected = -(target * ours).sum()
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0, check_dtype=False)
    torch.testing.assert_close(gradients(student, actual), gradients(student, expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk_tokens", [1, 2, 5, 100])
def test_chunks_do_not_matter(chunk_tokens: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.randn(3, 7, dtype=torch.float64)

    def loss(part: torch.Tensor, chunk: slice) -> torch.Tensor:
        return (part @ weight).logsumexp(-1).sum() * 1.5

    (expected,) = torch.autograd.grad(loss(hidden, slice(0, 5)), hidden)
    value = chunked_sum(hidden, loss, chunk_tokens)
    torch.testing.assert_close(value, loss(hidden, slice(0, 5)))
    torch.testing.assert_close(torch.autograd.grad(value, hidden)[0], expected)


def test_no_answers_cost_nothing() -> None:
    states = AnswerStates(torch.randn(1, 3, 4, requires_grad=True), lambda hidden: hidden)
    loss = cross_entropy_sum(states, torch.full((1, 2), -100))
    loss.backward()
    assert loss == 0
    assert states.hidden.grad is not None
    assert (states.hidden.grad == 0).all()


def test_looking_at_the_output_layer_leaves_every_modules_mode() -> None:
    """Dropout that was off in train mode stays off."""
    model = frozen_head(llama())
    model.train()
    model.model.layers[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    answer_states(model, BATCH)
    assert {name: module.training for name, module in model.named_modules()} == before
