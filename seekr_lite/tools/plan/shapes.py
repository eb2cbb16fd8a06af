"""The sizes of the base: its weights one by one, and the widths that activations depend on. Nothing is downloaded.

The configuration is packaged for the models that our recipes name, else a `config.json` that is here. The weights of
the plain decoders in `PLAIN` follow from it by arithmetic; for any other model transformers builds the modules, without
memory, which takes some seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from seekr_lite.common.errors import UserError
from seekr_lite.model.base import load_config, resolve_model
from seekr_lite.recipe.recipe import BaseSettings

PACKAGED = Path(__file__).parent / "models"
# Model types whose layers are attention of four projections and a gated MLP, each behind an RMS norm.
PLAIN = ("llama", "mistral", "qwen2", "qwen3")
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
# Keys of configurations whose tokens pass some of several MLPs, and types of layers that keep no keys and values.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
ATTENTION_LAYERS = {"full_attention", "sliding_attention", "attention"}
BLOCK, NESTED_BLOCK = 64, 256
CODE_4BIT, CODE_8BIT = 16 * 4, 256 * 4  # bytes; fp32 tables of a layer's values and of its absmax


@dataclass(frozen=True)
class BaseShape:
    """What the plan knows of a base.

    weights: name -> shape, `[out, in]` of linear layers, tied ones once. linear: names of the linear layers' weights
    without the output layer: what is quantised and what adapters may be put on. buffers: their bytes, whatever is
    computed in. mlp: the widest states of a layer. windowed: the cache keeps a window alone, so that transformers' own
    loop writes the answers. unknown: what the formula of activations does not know of this base; "" for PLAIN ones.
    """

    weights: dict[str, tuple[int, ...]]
    linear: frozenset[str]
    buffers: int
    layers: int
    hidden: int
    heads: int
    key_heads: int
    head_size: int
    mlp: int
    vocabulary: int
    windowed: bool
    unknown: str

    @property
    def parameters(self) -> int:
        return sum(map(prod, self.weights.values()))

    def stored(self, quantization: str, number: int) -> int:
        """Bytes on the device, of numbers of so many bytes where they are not quantised."""
        quantised = self.linear if quantization != "none" else ()
        return self.buffers + sum(
            quantised_bytes(shape, quantization) if name in quantised else number * prod(shape)
            for name, shape in self.weights.items()
        )


def quantised_bytes(shape: tuple[int, ...], quantization: str) -> int:
    """Bytes of one weight `[out, in]` with all that is needed to read it.

    bitsandbytes stores 4 bits (NF4, FP4) as packed halves of bytes, one absmax for each block of 64 weights, and
    (double quantisation, QLoRA, arXiv 2305.14314) these as bytes in blocks of 256 with a scale of fp32 each, an offset,
    and the two code tables; 8 bits (LLM.int8, arXiv 2208.07339) as bytes with a scale of fp32 for each row.
    """
    weights = prod(shape)
    if quantization == "int8":
        return weights + 4 * shape[0]
    blocks = -(-weights // BLOCK)
    nested = -(-blocks // NESTED_BLOCK)
    offset = 4
    return -(-weights // 2) + CODE_4BIT + blocks + 4 * nested + CODE_8BIT + offset


def read_shape(settings: BaseSettings) -> BaseShape:
    """The shape of a recipe's base.

    Raises:
        UserError: its configuration is neither in a folder, nor packaged, nor in the cache.
    """
    path = _config_file(settings)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        values = {}
    plain = isinstance(values, dict) and values.get("model_type") in PLAIN
    # Of a size that is left out, transformers has a default for each type of model.
    needed = (*SIZES, "vocab_size", *(("head_dim",) if plain and values["model_type"] == "qwen3" else ()))
    if plain and all(isinstance(values.get(key), int) for key in needed):
        return plain_shape(values)
    return built_shape(model_config(settings))


def local_file(settings: BaseSettings, name: str) -> Path | None:
    """A file of the base, from its folder or the hub's cache, where it is there."""
    source = resolve_model(settings.model)
    if Path(source).is_dir():
        return Path(source) / name if (Path(source) / name).is_file() else None
    try:
        cached = try_to_load_from_cache(source, name, revision=settings.revision or "main")
    except ValueError:  # no repository can have such a name
        return None
    return Path(cached) if isinstance(cached, str) else None


def _config_file(settings: BaseSettings) -> Path:
    packaged = PACKAGED / f"{settings.model.replace('/', '--')}.json"
    path = local_file(settings, "config.json") or packaged
    if path.is_file():
        return path
    known = ", ".join(sorted(path.stem.replace("--", "/") for path in PACKAGED.glob("*.json")))
    raise UserError(
        f"base.model {settings.model}: its sizes are not known here, and plan downloads nothing. Give a folder "
        f"that holds its config.json, or fetch that file once: `hf download {settings.model} config.json`. "
        f"Packaged are {known}"
    )


def model_config(settings: BaseSettings) -> Any:
    """transformers' configuration of a recipe's base. Raises `UserError` as `read_shape`."""
    from transformers import AutoConfig

    if Path(resolve_model(settings.model)).is_dir():
        return load_config(settings)
    return AutoConfig.from_pretrained(_config_file(settings))


# ---------------------------------------------------------------------- plain decoders


def plain_shape(config: dict[str, Any]) -> BaseShape:
    """By arithmetic, from the values of a `config.json`; as transformers builds it, which is tested."""
    hidden, mlp, layers, heads, key_heads = (config[key] for key in SIZES)
    kind, vocabulary = config["model_type"], config["vocab_size"]
    size = config.get("head_dim") or hidden // heads
    attention = {
        "q_proj": (heads * size, hidden),
        "k_proj": (key_heads * size, hidden),
        "v_proj": (key_heads * size, hidden),
        "o_proj": (hidden, heads * size),
    }
    feed_forward = {"gate_proj": (mlp, hidden), "up_proj": (mlp, hidden), "down_proj": (hidden, mlp)}
    biased = {"q_proj", "k_proj", "v_proj"} if kind == "qwen2" else set[str]()
    biased |= set(attention) if config.get("attention_bias") and kind in ("llama", "qwen3") else set()
    biased |= set(feed_forward) if config.get("mlp_bias") and kind == "llama" else set()
    weights: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    linear = set()
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        weights |= {f"{prefix}.{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        if kind == "qwen3":
            weights |= {f"{prefix}.self_attn.{name}.weight": (size,) for name in ("q_norm", "k_norm")}
        for part, of_part in (("self_attn", attention), ("mlp", feed_forward)):
            for name, shape in of_part.items():
                weights[f"{prefix}.{part}.{name}.weight"] = shape
                linear.add(f"{prefix}.{part}.{name}.weight")
                if name in biased:
                    weights[f"{prefix}.{part}.{name}.bias"] = shape[:1]
    if not config.get("tie_word_embeddings"):
        weights["lm_head.weight"] = (vocabulary, hidden)
    rotary = 2 * 4 * (size // 2)  # frequencies of the position embedding in fp32, and a copy of them
    windowed = bool(config.get("sliding_window")) and config.get("use_sliding_window", kind == "mistral")
    sizes = layers, hidden, heads, key_heads, size, mlp, vocabulary
    return BaseShape(weights, frozenset(linear), rotary, *sizes, windowed=windowed, unknown="")


# ---------------------------------------------------------------------- any other model


def built_shape(config: Any) -> BaseShape:
    """From the modules that transformers makes of a configuration, on torch's device without memory."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    with no_init_weights(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    # The layers that transformers hands to bitsandbytes: all linear ones but for the output layer.
    kept = get_keys_to_not_convert(model)
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if (type(module) is torch.nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, kept)
    }
    weights = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    text = config.get_text_config()
    heads = int(getattr(text, "num_attention_heads", None) or 1)
    return BaseShape(
        weights=weights,
        linear=frozenset(linear),
        buffers=sum(buffer.nbytes for buffer in model.buffers()),
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        heads=heads,
        key_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_size=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        mlp=max((max(weights[name]) for name in linear), default=int(text.hidden_size)),
        vocabulary=int(text.vocab_size),
        windowed="sliding_attention" in (getattr(text, "layer_types", None) or ()),
        unknown=_unknown(text),
    )


def _unknown(text: Any) -> str:
    """What of a model's layers the formula of activations does not know."""
    if any(getattr(text, key, None) for key in EXPERTS):
        return "layers are mixtures of experts, whose weights count as quantised only where they are linear layers"
    others = sorted({str(kind) for kind in getattr(text, "layer_types", None) or ()} - ATTENTION_LAYERS)
    if others or not hasattr(text, "num_attention_heads"):
        return f"layers are {', '.join(others) or 'not attention'}"
    return "" if text.model_type in PLAIN else f"the formula was not checked for {text.model_type}"
