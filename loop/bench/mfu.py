"""`candor bench mfu`: how much of a device's arithmetic training uses, how many tokens a second, how much memory.

On a GPU the model has the architecture of Llama-3.1-8B and random weights in bfloat16, an adapter of rank 32, and rows
of 2,048 tokens; on a CPU it is a small one, and there is no utilisation, as nobody knows what the processor could do.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from actors.models.hardware import fast_dtype
from actors.storage.store import Store
from trainers.job import TrainJob
from trainers.rows import Encoded, Pair, Rows
from trainers.settings import LoraSettings, TrainerSettings
from trainers.trainer import Trainer

LARGE = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
SMALL = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STEPS = 8
WARM_UP = 3
"""Steps that are not counted: kernels are chosen and memory is found in them."""


class Random(Trainer):
    """The trainer on a model of random weights and rows of random tokens."""

    def start(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        self.large = torch.cuda.is_available()
        self.length = 2048 if self.large else 256
        self._device = "cuda" if self.large else "cpu"
        torch.set_num_threads(self._threads)
        torch.manual_seed(0)
        config = LlamaConfig(**(LARGE if self.large else SMALL), bos_token_id=0, eos_token_id=1)
        with torch.device(self._device):
            self._base = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, self._dtype))
        self._known()
        self._tokenizer = _tokenizer()
        self._probe = [[0, 1, 2]]

    def rows(self, job: TrainJob, settings: TrainerSettings) -> Rows:
        """Full rows, half of each a reply, so that there is no padding."""
        rng = random.Random(0)
        half, words = self.length // 2, self._base.config.vocab_size

        def tokens() -> list[int]:
            return [rng.randrange(2, words) for _ in range(half)]

        n = settings.batch_size * STEPS
        if settings.algorithm == "dpo":
            return Rows([Pair(tokens(), tokens(), tokens(), "bench") for _ in range(n)])
        return Rows([Encoded(tokens(), tokens(), [True] * half, bool(i % 2), "bench") for i in range(n)])


def run() -> dict[str, Any]:
    """All figures; takes a few minutes on a GPU, and one on two cores."""
    import os

    trainer = Random("random weights", fast_dtype(), len(os.sched_getaffinity(0)), [])
    trainer.start()
    found = {algorithm: _measure(trainer, algorithm) for algorithm in ("sft", "kto")}
    utilisation = found["sft"]["mfu"]
    return {
        "ratio": utilisation,
        "goal": 0.45,
        "runs": found["sft"].pop("steps"),
        "model": f"{sum(p.numel() for p in trainer._base.parameters()) / 1e6:,.0f} million weights, {trainer._dtype}",
        "row_tokens": trainer.length,
        **found,
    }


def _measure(trainer: Random, algorithm: str) -> dict[str, Any]:
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = TrainerSettings(
        algorithm=algorithm,
        lora=LoraSettings(rank=32, alpha=64, targets=TARGETS),
        batch_size=16 if trainer.large else 4,
        micro_batch=2,
        max_length=trainer.length,
    )
    if trainer.large:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as folder:
        out = Path(folder)
        job = TrainJob("bench", 1, Store(folder, "none"), "", None, str(out / "1"), 0, str(out / "tb"))
        trainer.train(job, settings)
        events = EventAccumulator(str(out / "tb")).Reload()
        shown = events.Tags()["scalars"]
        rates = [e.value for e in events.Scalars("train/tokens_per_second")][WARM_UP:]
        used = [e.value for e in events.Scalars("train/mfu")][WARM_UP:] if "train/mfu" in shown else []
    return {
        "tokens_per_second": round(statistics.median(rates)),
        "mfu": round(statistics.median(used), 3) if used else None,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if trainer.large else None,
        "steps": [round(v, 3) for v in used or rates],
    }


def _tokenizer() -> Any:
    """The least that a trainer takes for a tokenizer; no text is read here."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1}, unk_token="</s>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>")
