"""The frozen base model: where it comes from, how it is quantised, and what it is computed in.

Weights come from safetensors only and code never comes from a model folder. Nothing is loaded by importing this file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import user_path
from seekr_lite.model.no_foreign_code import no_pickle

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from seekr_lite.recipe.recipe import BaseSettings


TINY = "tiny"


@dataclass
class Base:
    """A loaded base: the frozen model, its tokenizer, and the name and revision under which PEFT finds it again."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name_or_path: str
    revision: str | None = None

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device


def resolve_model(name: str) -> str:
    """The folder of the built-in base for "tiny", an absolute folder where there is one, else the hub id."""
    if name == TINY:
        return str(Path(__file__).parent / "tiny")
    folder = user_path(name)
    return str(folder.resolve()) if os.path.isdir(folder) else name


def load_config(settings: BaseSettings) -> Any:
    """The model's configuration alone, to check a recipe against before any weight is read.

    Raises:
        UserError: the model is missing, gated, offline, or would need code of its own.
    """
    from transformers import AutoConfig

    with _user_errors(settings.model):
        _refuse_adapter(settings)
        return AutoConfig.from_pretrained(resolve_model(settings.model), **_source(settings))


def load_tokenizer(settings: BaseSettings) -> PreTrainedTokenizerBase:
    """The tokenizer, with a padding token that is not the end token wherever the vocabulary has one to offer."""
    from transformers import AutoTokenizer

    with _user_errors(settings.model), no_pickle():
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(settings.model), **_source(settings))
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"base.model {settings.model}: the tokenizer has no end-of-sequence token; answers could never end"
        )
    if tokenizer.pad_token_id is None:
        # Padding is masked everywhere, so any token serves; the end token is the last resort.
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_base(settings: BaseSettings, device: torch.device | None = None) -> Base:
    """Loads, quantises and freezes the base, on the recipe's device or on a certain one.

    Raises:
        UserError: see `load_config`; or no safetensors weights; or a GPU was asked for and there is none.
    """
    from transformers import AutoModelForCausalLM

    device = device or choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    avoid_cudnn_attention()
    with _user_errors(settings.model), no_pickle():
        _refuse_adapter(settings)
        model = AutoModelForCausalLM.from_pretrained(
            resolve_model(settings.model),
            quantization_config=quantization_config(settings.quantization, dtype),
            dtype=dtype,
            device_map={"": device},
            attn_implementation=settings.attention,
            use_safetensors=True,
            **_source(settings),
        )
    model.requires_grad_(False)
    keep_trainable(model)
    _choose_threads(settings.model == TINY and device.type == "cpu")
    model.config.use_cache = False  # a cache is for generation, which asks for it
    return Base(model, load_tokenizer(settings), resolve_model(settings.model), settings.revision)


_threads_before: list[int] = []  # of torch, while the tiny base has it use one


def _choose_threads(tiny: bool) -> None:
    """The tiny base's matrices are so small that threads only wait for each other, very long where cores are busy. A
    larger base that is loaded later has as many as before."""
    import torch

    if tiny and not _threads_before:
        _threads_before.append(torch.get_num_threads())
        torch.set_num_threads(1)
    elif not tiny and _threads_before:
        torch.set_num_threads(_threads_before.pop())


def _refuse_adapter(settings: BaseSettings) -> None:
    """transformers loads an adapter that lies in a model's folder, and the base that it names, by its own rules."""
    from transformers.utils import find_adapter_config_file

    if find_adapter_config_file(resolve_model(settings.model), revision=settings.revision or "main") is not None:
        raise UserError(
            f"base.model {settings.model}: it holds an adapter (adapter_config.json), and a base is needed; name the "
            "model that the adapter was made for, or merge the adapter into it first"
        )


def keep_trainable(model: torch.nn.Module) -> None:
    """Keeps 4-bit layers in the format that has gradients.

    On CPUs with AVX512-BF16, bitsandbytes repacks a layer's weights at its first forward in eval mode and calls a
    kernel without a gradient from then on: whatever is trained after the first test would silently learn from wrong
    gradients (seen with bitsandbytes 0.50.2).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def checkpoint_activations(model: Any) -> None:
    """Activations are computed again in the backward pass. Not re-entrant: the tap could not follow (`tap.py`)."""
    # The older name warns in transformers that has the newer one.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def quantization_config(quantization: str, dtype: torch.dtype) -> Any:
    """bitsandbytes' configuration: 4 bits with double quantisation (QLoRA, arXiv 2305.14314), 8 bits, or None."""
    from transformers import BitsAndBytesConfig

    if quantization == "none":
        return None
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises `UserError` when "cuda" is asked for in vain."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            'base.device = "cuda": torch sees no GPU here; use "cpu" or "auto", or install a CUDA build of torch'
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def avoid_cudnn_attention() -> None:
    """torch takes another kernel for `scaled_dot_product_attention` than cuDNN's, in this process.

    Its gradient is NaN for some padded batches in bfloat16 (H200, torch 2.11: eight left-padded rows of 192 tokens);
    those of torch's own kernels are finite there. Newer cards get cuDNN's by default.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on a GPU that computes in it, float16 on an older one, float32 on a CPU."""
    import torch

    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cpu":
        return torch.float32
    # Cards before Ampere only emulate bfloat16, slowly.
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _source(settings: BaseSettings) -> dict[str, Any]:
    """Of everything that is loaded: at which revision, and that no code comes with it."""
    return {"revision": settings.revision or "main", "trust_remote_code": False}


@contextmanager
def _user_errors(model: str) -> Iterator[None]:
    """Says what is wrong with a model in the user's words instead of a traceback of several libraries."""
    # The hub client logs every retry of a connection that is not there; our message says it once.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the files of a model may hold anything, so the libraries raise anything
        raise UserError(f"base.model {model}: {_explain(model, error)}") from None


def _explain(model: str, error: BaseException) -> str:
    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or step.__context__
    names = {type(item).__name__ for item in chain}
    text = " ".join(str(item) for item in chain)
    is_folder = os.path.isdir(user_path(model))
    if "GatedRepoError" in names or "gated repo" in text:
        return (
            "this model is gated. Ask for access on its page at huggingface.co, then log in with `hf auth login`; "
            "or take an ungated model, for example recipes/trace-vicuna-7b.toml"
        )
    if "RepositoryNotFoundError" in names or "is not a valid model identifier" in text:
        return (
            "the hub knows no such model, and there is no such folder; check the spelling, or log in for a private one"
        )
    if "trust_remote_code" in text or "custom code" in text:
        return (
            "this model brings its own code, which seekr-lite never runs; use an architecture that transformers knows"
        )
    if "scaled_dot_product_attention" in text or "attn_implementation" in text or "FlashAttention" in text:
        return (
            f"this model cannot run with base.attention as it is set, here: {str(error).splitlines()[0]} "
            'Others are "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", and "eager" (not for seekr)'
        )
    if is_folder and "safetensors" in text:
        return "the folder holds no safetensors weights (model.safetensors), and other formats are never loaded"
    if is_folder:
        return f"the folder cannot be loaded as a model: {(str(error) or repr(error)).splitlines()[0]}"
    offline = {
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "ConnectError",
        "ConnectionError",
        "ProxyError",
    }
    if names & offline or "couldn't connect" in text or "offline" in text.lower() or "cached files" in text:
        return (
            "there is no such folder, and the hub cannot be reached (or is switched off) while the model is not in the "
            "local cache. Give the path of a downloaded folder, or connect and try again"
        )
    return str(error).splitlines()[0] if str(error) else type(error).__name__
