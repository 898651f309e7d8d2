"""Builds the pocket model: a small Llama trained from scratch on the pocket corpus, then checked.

The result is an ordinary Hugging Face directory (bfloat16 safetensors, tokenizer with chat template) plus
`candor_build.json` with the recipe and the measured acceptance figures. The directory appears only when it is whole.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from actors.models.hardware import fast_dtype
from actors.storage.files import whole_folder
from actors.worlds.base import Message, WorldError
from actors.worlds.pocket.acceptance import check
from actors.worlds.pocket.corpus import document
from actors.worlds.pocket.recipe import (
    BUILD_FILE,
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    WEIGHTS,
    Recipe,
    file_hash,
    identity,
)


def build(recipe: Recipe, target: Path, progress: Callable[[int, int, float], None] = lambda *_: None) -> dict:
    """Train a pocket model into `target`, on a GPU where there is one, and return what `candor_build.json` holds.

    Args:
        progress: Called after each step with (steps done, steps in all, loss).

    Raises:
        WorldError: The model misses an acceptance figure; nothing is left in `target`.
        OSError: The folder cannot be written.
    """
    started = time.monotonic()
    with whole_folder(target) as folder:
        tokenizer = train_tokenizer(recipe)
        model, loss = pretrain(recipe, tokenizer, progress)
        device = model.device.type
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        figures = check(model.float(), tokenizer)
        missed = [f for f in figures if not f.met]
        if missed:
            raise WorldError("the pocket model was built but is not used; it misses " + "; ".join(map(str, missed)))
        record = {
            "recipe": asdict(recipe),
            "world": identity(recipe),
            "sha256": {name: file_hash(folder / name) for name in (WEIGHTS, "tokenizer.json")},
            "parameters": sum(p.numel() for p in model.parameters()),
            "loss": loss,
            "seconds": round(time.monotonic() - started, 1),
            "torch": torch.__version__,
            "trained_on": device,
            "trained_in": fast_dtype(device),
            "acceptance": {f.name: {"value": f.value, "low": f.low, "high": f.high} for f in figures},
        }
        (folder / BUILD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def render(transcript: list[Message]) -> str:
    """One transcript as corpus text; the chat template renders the same, after the document's `<s>`."""
    return "".join(f"<|{m['role']}|>{m['content']}" + ("</s>" if m["role"] == "assistant" else "") for m in transcript)


def train_tokenizer(recipe: Recipe, documents: int = 2000) -> PreTrainedTokenizerFast:
    """Byte-level BPE on a sample of the corpus; each number from 0 to 100 is one token."""
    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [m["content"] for _ in range(documents) for t in document(rng, recipe.shared) for m in t]
    texts += [str(i) for i in range(101)] * 50
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def batch(documents: list[str], tokenizer: PreTrainedTokenizerFast, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and the mask of what assistants say, both (documents, length); the mask covers each `</s>`."""
    rows = tokenizer.backend_tokenizer.encode_batch(documents, add_special_tokens=False)
    ids = np.zeros((len(rows), length), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids[:length]
    begin, end = tokenizer.convert_tokens_to_ids("<|assistant|>"), tokenizer.eos_token_id
    mask = np.zeros_like(ids, bool)
    speaking = np.zeros(len(rows), bool)
    for j in range(length):
        mask[:, j] = speaking
        speaking = np.where(ids[:, j] == begin, True, np.where(ids[:, j] == end, False, speaking))
    return torch.from_numpy(ids), torch.from_numpy(mask & (ids != tokenizer.pad_token_id))


class InFloat32(TorchFunctionMode):
    """Inside, what asks for bfloat16 gets float32: torch's Muon orthogonalises in bfloat16 on every machine."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)  # a copy, as the original is
        return func(*args, **(kwargs or {}))


def pretrain(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, progress: Callable[[int, int, float], None]
) -> tuple[LlamaForCausalLM, float]:
    """Train from random weights; returns the bfloat16 model and its loss over the last 50 steps (nats a token).

    While it trains, weights are in the format that is fast here, with float32 masters. Embeddings are not tied to the
    output head: vLLM's CPU weight reload keeps the old head of a tied model.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = fast_dtype(device)
    torch.manual_seed(recipe.seed)
    rng = random.Random(1000 + recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            head_dim=recipe.hidden // recipe.heads,
            max_position_embeddings=1024,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
            initializer_range=0.03,
        )
    ).to(device, getattr(torch, dtype))
    masters = {n: p.detach().float().clone().requires_grad_() for n, p in model.named_parameters()}
    inner = [p for n, p in masters.items() if p.ndim == 2 and "layers." in n]
    outer = [p for n, p in masters.items() if not (p.ndim == 2 and "layers." in n)]
    optimizers = [
        torch.optim.Muon(inner, lr=recipe.matrix_lr, weight_decay=0.01, momentum=0.95, ns_steps=5),
        torch.optim.AdamW(outer, lr=recipe.other_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    full = [group["lr"] for opt in optimizers for group in opt.param_groups]
    losses: list[float] = []
    for step in range(recipe.steps):
        decay = max(0.03, min(1.0, 2 * (1 - step / recipe.steps)))
        groups = [group for opt in optimizers for group in opt.param_groups]
        for group, lr in zip(groups, full, strict=True):
            group["lr"] = lr * min(1.0, (step + 1) / 20) * decay
        texts = ["<s>" + "".join(map(render, document(rng, recipe.shared))) for _ in range(recipe.batch)]
        ids, mask = (t.to(device) for t in batch(texts, tokenizer, recipe.length))
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][mask[:, 1:]]
        loss = F.cross_entropy(model.lm_head(hidden).float(), ids[:, 1:][mask[:, 1:]])
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad.float() for p in model.parameters()])
        scale = (1 / (norm + 1e-6)).clamp(max=1.0)
        for name, p in model.named_parameters():
            masters[name].grad = p.grad.float() * scale
            p.grad = None
        with InFloat32() if dtype == "float32" else nullcontext():
            for opt in optimizers:
                opt.step()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(masters[name])
        losses.append(loss.item())
        progress(step + 1, recipe.steps, float(np.mean(losses[-50:])))
    return model.bfloat16().eval(), float(np.mean(losses[-50:]))
