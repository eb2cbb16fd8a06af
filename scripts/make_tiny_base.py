"""Makes the built-in tiny base: its tokenizer, its weights, its configuration.

    python scripts/make_tiny_base.py            # writes seekr_lite/model/tiny/
    python scripts/make_tiny_base.py --check    # rebuilds elsewhere and compares

It needs the package installed and takes about ten minutes. One thread, one seed: the same machine and torch
give the same bytes; another processor may round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from pretraining_rows import pretraining_rows, vocabulary
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from seekr_lite.data.task import Example

FOLDER = Path(__file__).resolve().parents[1] / "seekr_lite" / "model" / "tiny"
SEED = 20240607
STEPS = 4500
BATCH = 64
LEARNING_RATE = 2e-3
PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word of the vocabulary is one token; everything else is spelled in bytes, so no text is unknown.

    As Llama's, it puts a space before the text and takes it off again: a word is the same token
    wherever it stands, also at the start of an answer.
    """
    space = "\u0120"
    pieces = [PAD, BOS, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [space + "->", *(space + word for word in vocabulary())]
    numbered = {piece: i for i, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocab=numbered, merges=[], ignore_merges=True))
    core.normalizer = normalizers.Prepend(" ")
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, numbered[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )


def make_model(tokens: int) -> LlamaForCausalLM:
    """An untrained decoder; all widths are multiples of 64, the block of 4-bit quantisation."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=math.ceil(tokens / 64) * 64,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            initializer_range=0.05,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def encode(rows: list[Example], tokenizer: PreTrainedTokenizerFast) -> list[tuple[list[int], int]]:
    """Tokens of each row and the length of its prompt; every eighth row goes without `<s>`."""
    prompts = tokenizer([row.prompt for row in rows])["input_ids"]
    answers = tokenizer([row.answer for row in rows], add_special_tokens=False)["input_ids"]
    encoded = []
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        kept = prompt[1:] if i % 8 == 0 else prompt
        encoded.append(([*kept, *answer, 2], len(kept)))
    return encoded


def collate(rows: list[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads on the right: causal attention of real tokens never sees the padding."""
    width = max(len(ids) for ids, _ in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for i, (ids, prompt) in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
        labels[i, prompt : len(ids)] = tokens[i, prompt : len(ids)]
    return tokens, labels


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int) -> None:
    """Ordinary next-token training on the answers, one thread."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.98))
    started = time.monotonic()
    model.train()
    for step in range(steps):
        warm = min(1.0, (step + 1) / 100)
        rate = LEARNING_RATE * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens, labels = collate(encode(pretraining_rows(BATCH, SEED + step), tokenizer))
        hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        scored = wanted != -100
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[scored]), wanted[scored])
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s", flush=True)


def build(folder: Path, steps: int) -> str:
    """Writes the base into `folder` and returns the sha256 of its weights."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    train(model, tokenizer, steps)
    model.eval().to(torch.bfloat16)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return weights_hash(folder)


def weights_hash(folder: Path) -> str:
    """sha256 of the weights file."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def main() -> int:
    """Reads the command line; the exit code is 1 if `--check` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="rebuild in a temporary folder and compare")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    options = parser.parse_args()
    if not options.check:
        print(json.dumps({"sha256": build(options.folder, options.steps)}))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        rebuilt = build(Path(scratch), options.steps)
    kept = weights_hash(options.folder)
    print(json.dumps({"kept": kept, "rebuilt": rebuilt, "same": kept == rebuilt}))
    return 0 if kept == rebuilt else 1


if __name__ == "__main__":
    sys.exit(main())
