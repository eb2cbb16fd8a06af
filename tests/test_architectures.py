"""The tap and the sensitivity on many decoders of transformers, and the refusal of those it cannot follow."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tf
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from seekr_lite.attention.divergence import attention_divergence
from seekr_lite.attention.importance import SensitivityRecorder
from seekr_lite.attention.maps import MapShape
from seekr_lite.attention.recording import HeadRecorder, all_heads
from seekr_lite.attention.tap import Recorder, tap
from seekr_lite.attention.tappable import check_tappable
from seekr_lite.common.errors import UserError
from seekr_lite.data.batch import Batch, collate
from seekr_lite.data.encoding import EncodedExample
from seekr_lite.methods.head_scoring import head_forgettability, head_sensitivity
from seekr_lite.model.base import Base
from seekr_lite.model.lora import AdapterSequence
from seekr_lite.recipe.recipe import AdapterSettings

LAYERS, HEADS, WINDOW = 2, 4, 4
SIZES: dict[str, Any] = {
    "vocab_size": 41,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2}
Make = Callable[[], Any]

ARCHITECTURES: dict[str, Make] = {
    "Llama, grouped": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED)),
    "Llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES)),
    "Mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**GROUPED, sliding_window=WINDOW)),
    "Qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**GROUPED)),
    "Qwen2, windows": lambda: tf.Qwen2ForCausalLM(
        tf.Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    ),
    "Qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**GROUPED, head_dim=16)),
    "Gemma 3": lambda: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=WINDOW, layer_types=LOCAL_GLOBAL)
    ),
    "Phi-3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**GROUPED, sliding_window=WINDOW)),
    "GPT-NeoX": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**SIZES)),
    "GPT-2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=41, n_embd=32, n_layer=LAYERS, n_head=HEADS, initializer_range=0.3)
    ),
    "GPT-2, scaled by layer": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(
            vocab_size=41,
            n_embd=32,
            n_layer=LAYERS,
            n_head=HEADS,
            initializer_range=0.3,
            scale_attn_by_inverse_layer_idx=True,
        )
    ),
    "OLMo 2": lambda: tf.Olmo2ForCausalLM(tf.Olmo2Config(**GROUPED)),
    "Granite": lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**GROUPED, attention_multiplier=0.1)),
    "Starcoder 2": lambda: tf.Starcoder2ForCausalLM(tf.Starcoder2Config(**GROUPED)),
    "Cohere": lambda: tf.CohereForCausalLM(tf.CohereConfig(**GROUPED)),
    "Qwen3 MoE": lambda: tf.Qwen3MoeForCausalLM(
        tf.Qwen3MoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    ),
}
LOCAL_GLOBAL = ["sliding_attention", "full_attention"]
PADDED = collate([EncodedExample(tuple(range(3, 12)), 3), EncodedExample((5, 20, 8, 17, 30), 2)], pad_token_id=0)
UNPADDED = collate([EncodedExample(tuple(range(3, 12)), 3), EncodedExample(tuple(range(30, 21, -1)), 2)], 0)


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Any:
    return make(ARCHITECTURES[request.param])


@pytest.fixture(params=[PADDED, UNPADDED], ids=["padded", "unpadded"])
def batch(request: pytest.FixtureRequest) -> Any:
    return request.param


def make(architecture: Make, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    made = architecture()
    made.set_attn_implementation("sdpa")
    made.set_experts_implementation("eager")  # the grouped matrix product has no fp64
    return made.eval()


def logits(model: Any, batch: Batch, recorder: Recorder | None = None) -> torch.Tensor:
    options = {} if recorder is None else {"attention_recorder": recorder}
    result: torch.Tensor = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        **options,
    ).logits
    return result


def loss(model: Any, batch: Batch, recorder: Recorder | None = None) -> torch.Tensor:
    shifted = logits(model, batch, recorder)[:, :-1].flatten(0, 1)
    return torch.nn.functional.cross_entropy(shifted, batch.labels[:, 1:].flatten())


def head_recorder(batch: Batch) -> HeadRecorder:
    pairs = all_heads(len(batch.labels), HEADS, torch.device("cpu"))
    return HeadRecorder({layer: pairs for layer in range(LAYERS)})


# ------------------------------------------------------------------ the reference: eager, with maps that are kept


class KeptMaps:
    """Eager attention in the inputs' own precision, whose maps keep their gradient."""

    def __init__(self) -> None:
        self.layers: dict[int, torch.Tensor] = {}  # [b, h, n, n]

    def attention(
        self, module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None = None, **_: Any
    ) -> Any:
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        maps = (query @ key.transpose(2, 3) * scale + mask.to(query.dtype)).softmax(-1)
        maps.retain_grad()
        self.layers[module.layer_idx] = maps
        return (maps @ value).transpose(1, 2), None


def eager_maps(model: Any, batch: Batch) -> dict[int, torch.Tensor]:
    """layer -> maps `[b, h, n, n]` with the gradient of the loss."""
    kept = KeptMaps()
    AttentionInterface.register("kept_maps", kept.attention)
    AttentionMaskInterface.register("kept_maps", eager_mask)
    model.set_attn_implementation("kept_maps")
    loss(model, batch).backward()
    model.set_attn_implementation("sdpa")
    return kept.layers


# ------------------------------------------------------------------ what holds for all of them


@torch.no_grad()
def test_the_tap_changes_no_logit(model: Any, batch: Batch) -> None:
    plain = logits(model, batch)
    with tap(model):
        assert torch.equal(logits(model, batch), plain)
        assert torch.equal(logits(model, batch, HeadRecorder({})), plain)
        assert torch.equal(logits(model, batch, head_recorder(batch)), plain)
    assert model.config._attn_implementation == "sdpa"


def test_the_check_lets_them_pass(model: Any) -> None:
    check_tappable(model)


def test_sensitivity_is_the_eager_gradient_of_the_map(model: Any, batch: Batch) -> None:
    model = model.double()
    recorder = SensitivityRecorder(batch.padding)
    with tap(model):
        loss(model, batch, recorder).backward()
    for layer, maps in eager_maps(model, batch).items():
        assert maps.grad is not None
        for row, padding in enumerate(batch.padding.tolist()):
            expected = maps.grad[row, :, padding:, padding:].square().mean((1, 2))
            torch.testing.assert_close(recorder.layers[layer][row], expected, rtol=1e-5, atol=0)


def test_recorded_heads_make_the_models_maps(model: Any, batch: Batch) -> None:
    model, recorder = model.double(), head_recorder(batch)
    with tap(model), torch.no_grad():
        logits(model, batch, recorder)
    for layer, maps in eager_maps(model, batch).items():
        seen = recorder.layers[layer]
        shape = MapShape.of_all_rows(
            batch.padding.repeat_interleave(HEADS), batch.labels.shape[1], seen.scale, seen.window
        )
        scores = seen.query @ seen.key.transpose(1, 2) * seen.scale
        mask = shape.mask(0, scores.shape[1], scores.shape[2], torch.empty_like(scores))
        made = (scores + mask).softmax(-1).view_as(maps)
        for row, padding in enumerate(batch.padding.tolist()):
            torch.testing.assert_close(made[row, :, padding:], maps[row, :, padding:].detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpointing_leaves_every_gradient(architecture: str, batch: Batch) -> None:
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        teacher, student = (make(ARCHITECTURES[architecture], seed).double() for seed in (1, 0))
        theirs, ours = head_recorder(batch), head_recorder(batch)
        with torch.no_grad(), tap(teacher):
            logits(teacher, batch, theirs)
        if checkpointing:
            student.gradient_checkpointing_enable({"use_reentrant": False})
        student.train()
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        padding = batch.padding.repeat_interleave(HEADS)
        with tap(student):
            total = loss(student, batch, ours)
            for layer in range(LAYERS):
                own, old = ours.layers[layer], theirs.layers[layer]
                shape = MapShape.of_all_rows(padding, batch.labels.shape[1], own.scale, own.window)
                total = total + attention_divergence(own.query, own.key, old.query, old.key, shape).mean()
            total.backward()
        return {name: weight.grad for name, weight in student.named_parameters() if weight.grad is not None}

    torch.testing.assert_close(gradients(checkpointing=True), gradients(checkpointing=False), rtol=1e-5, atol=1e-9)


# ------------------------------------------------------------------ what cannot be tapped


def falcon() -> Any:
    return tf.FalconForCausalLM(
        tf.FalconConfig(vocab_size=41, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=False)
    )


def stablelm() -> Any:
    """Its layers drop the keyword that brings the recorder."""
    return tf.StableLmForCausalLM(tf.StableLmConfig(**GROUPED))


def llama_4() -> Any:
    return tf.Llama4ForCausalLM(
        tf.Llama4TextConfig(
            **GROUPED, head_dim=8, intermediate_size_mlp=40, num_local_experts=2, attention_chunk_size=4
        )
    )


def qwen3_next(*layer_types: str) -> Any:
    return tf.Qwen3NextForCausalLM(
        tf.Qwen3NextConfig(
            **GROUPED,
            head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=8,
            shared_expert_intermediate_size=8,
            layer_types=list(layer_types or ("linear_attention", "full_attention")),
        )
    )


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (falcon, r"FalconForCausalLM: layers 0, 1 do not go through transformers' attention interface"),
        (stablelm, r"StableLmForCausalLM: layers 0, 1 do not go through transformers' attention interface"),
        (llama_4, r"Llama4ForCausalLM: layers 0, 1 are chunked_attention"),
        (qwen3_next, r"Qwen3NextForCausalLM: layers 0 are linear_attention"),
    ],
)
def test_other_attention_is_refused_by_name(refused: Make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_tappable(make(refused))


@pytest.mark.parametrize("refused", [llama_4, lambda: qwen3_next("full_attention", "linear_attention")])
def test_heads_are_scored_only_where_seekr_could_hold_them(refused: Make) -> None:
    base = Base(make(refused), SimpleNamespace(pad_token_id=0), "its/name")  # type: ignore[arg-type]
    adapters = AdapterSequence(base, AdapterSettings(targets=("q_proj",)), seed=0)
    adapters.start_task()
    with pytest.raises(UserError, match="which has no map that SEEKR could hold"):
        head_sensitivity(adapters, [EncodedExample((5, 9, 17, 30), 2)])
    with pytest.raises(UserError, match="which has no map that SEEKR could hold"):
        head_forgettability(adapters, [EncodedExample((5, 9, 17, 30), 2)], None, 0, [None])


def test_a_model_whose_kernel_has_no_tap_is_refused() -> None:
    model = tf.Gemma2ForCausalLM(tf.Gemma2Config(**GROUPED, head_dim=8, attn_implementation="eager"))
    with pytest.raises(UserError, match='Gemma2ForCausalLM runs with the attention implementation "eager"'):
        check_tappable(model)


def test_scores_that_are_changed_on_the_way_are_refused() -> None:
    """A bias that the tap cannot see, as relative positions or sinks would be."""

    def biased(*inputs: Any, **options: Any) -> Any:
        output, weights = tf.integrations.sdpa_attention.sdpa_attention_forward(*inputs, **options)
        return output + 0.2 * inputs[3].mean(2, keepdim=True).transpose(1, 2).repeat_interleave(2, 2), weights

    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model = make(ARCHITECTURES["Llama, grouped"])
    ALL_ATTENTION_FUNCTIONS["sdpa"] = biased
    try:
        with pytest.raises(UserError, match="layers 0, 1 do more than softmax over queries and keys"):
            check_tappable(model)
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


def test_reentrant_checkpointing_is_refused() -> None:
    model = make(ARCHITECTURES["Llama"])
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(UserError, match="re-entrant"), tap(model):
        pass


def test_two_models_in_one_process_do_not_meet() -> None:
    one, other = (make(ARCHITECTURES["Llama"], seed) for seed in (0, 1))
    mine, theirs = head_recorder(PADDED), head_recorder(PADDED)
    with torch.no_grad(), tap(one):
        logits(one, PADDED, mine)
        logits(other, PADDED)  # not tapped: nothing listens
        with tap(other):
            logits(other, PADDED, theirs)
        assert one.config._attn_implementation != "sdpa"
        assert other.config._attn_implementation == "sdpa"
    assert not torch.equal(mine.layers[0].query, theirs.layers[0].query)


@pytest.mark.slow
@torch.no_grad()
def test_flex_attention_can_be_tapped() -> None:
    """Slow: it is compiled."""
    model, recorder, expected = make(ARCHITECTURES["Llama, grouped"]), head_recorder(PADDED), head_recorder(PADDED)
    with tap(model):
        logits(model, PADDED, expected)
    model.set_attn_implementation("flex_attention")
    plain = logits(model, PADDED)
    with tap(model):
        assert torch.equal(logits(model, PADDED, recorder), plain)
    for layer in range(LAYERS):
        real = PADDED.attention_mask.bool().repeat_interleave(HEADS, 0)
        torch.testing.assert_close(
            recorder.layers[layer].query[real], expected.layers[layer].query[real], rtol=1e-4, atol=1e-5
        )
    check_tappable(model)


@torch.no_grad()
def test_flash_attention_is_called_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash runs on GPUs only; here a stand-in for its kernel is called as the real one would be."""
    import transformers.integrations.flash_attention as flash
    from transformers.modeling_utils import PreTrainedModel

    def kernel(query: Any, key: Any, value: Any, mask: Any, **options: Any) -> torch.Tensor:
        assert options["attn_implementation"] == "flash_attention_2"
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        tokens = query.shape[2]
        seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
        if mask is not None:
            assert mask.shape == (len(query), tokens)
            seen = (seen & mask.bool()[:, None, None]) | torch.eye(tokens, dtype=torch.bool)
        output = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, seen, scale=options["softmax_scale"], enable_gqa=True
        )
        return output.transpose(1, 2)

    monkeypatch.setattr(flash, "_flash_attention_forward", kernel)
    model, recorder = make(ARCHITECTURES["Llama, grouped"]), head_recorder(PADDED)
    expected = logits(model, PADDED)
    model.config._attn_implementation_internal = "flash_attention_2"
    monkeypatch.setattr(PreTrainedModel, "_check_and_adjust_attn_implementation", lambda self, name, **_: name)
    with tap(model):
        seen = logits(model, PADDED, recorder)
    assert model.config._attn_implementation == "flash_attention_2"
    real = PADDED.attention_mask.bool()
    torch.testing.assert_close(seen[real], expected[real], rtol=1e-4, atol=1e-5)
    assert sorted(recorder.layers) == [0, 1]
