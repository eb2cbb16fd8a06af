"""Loading a base: what is refused, and in which words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from seekr_lite.common.errors import UserError
from seekr_lite.model.base import choose_dtype, load_base, load_config, load_tokenizer
from seekr_lite.recipe.recipe import BaseSettings


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8", "none"])
def test_the_built_in_base_loads(quantization: str) -> None:
    base = load_base(BaseSettings(model="tiny", quantization=quantization, device="cpu"))  # type: ignore[arg-type]
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.tokenizer.pad_token_id != base.tokenizer.eos_token_id


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert choose_dtype("auto", torch.device("cuda")) is torch.float16
    assert choose_dtype("bfloat16", torch.device("cuda")) is torch.bfloat16


def test_the_tiny_base_takes_one_thread_and_gives_the_others_back(tmp_path: Path) -> None:
    import seekr_lite.model.tiny

    folder = tmp_path / "another"
    shutil.copytree(Path(seekr_lite.model.tiny.__file__).parent, folder)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        load_base(BaseSettings(model=str(folder), device="cpu"))  # gives back what earlier tests have taken
        torch.set_num_threads(2)
        load_base(BaseSettings(model="tiny", device="cpu"))
        assert torch.get_num_threads() == 1
        load_base(BaseSettings(model=str(folder), device="cpu"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_cudnns_attention_is_left_alone() -> None:
    """Its gradient of padded rows can be NaN; a GPU would take it first."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    load_base(BaseSettings(model="tiny"))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    import seekr_lite.model.tiny

    tiny = Path(seekr_lite.model.tiny.__file__).parent
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError, match="safetensors"):
        load_base(BaseSettings(model=str(tmp_path), device="cpu"))


def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Model"}}'
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('this code ran')")
    with pytest.raises(UserError, match="code"):
        load_config(BaseSettings(model=str(tmp_path)))


def test_a_model_that_is_not_there_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no such folder"):
        load_tokenizer(BaseSettings(model="nobody/has-this-model"))


def test_a_gpu_that_is_not_there() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match="sees no GPU"):
        load_base(BaseSettings(model="tiny", device="cuda"))


def test_a_kernel_that_the_model_does_not_have_says_which_key_to_change(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=41,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    ).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"cannot run with base\.attention as it is set"):
        load_base(BaseSettings(model=str(tmp_path), device="cpu"))
