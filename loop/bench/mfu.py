"""`candor bench mfu`: how much of a device's arithmetic training uses, how many tokens a second, and how much memory,
beside what `candor plan` says that it needs.

On a GPU the model has the architecture of Llama-3.1-8B and random weights in bfloat16, an adapter of rank 32, and rows
of 2,048 tokens, with and without recomputed activations; and all weights are trained of a model with the architecture
of Llama-3.2-1B. On a CPU it is a small one, and there is no utilisation, as nobody knows what the processor could do.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from actors.models.hardware import cores, fast_dtype
from actors.storage.store import Store
from loop.memory import GIB, Shape, trainer_memory
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
MEDIUM = LARGE | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "tie_word_embeddings": True}
SMALL = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
ADAPTER = LoraSettings(
    rank=32, alpha=64, targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
)
STEPS = 8
WARM_UP = 3
"""Steps that are not counted: kernels are chosen and memory is found in them."""


class Random(Trainer):
    """The trainer on a model of random weights and rows of random tokens."""

    def __init__(self, architecture: dict[str, Any], length: int) -> None:
        super().__init__("random weights", fast_dtype(), cores(), [])
        self._architecture, self._length = architecture, length

    def start(self) -> None:
        import torch

        torch.set_num_threads(self._threads)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._base = self._load(self._model_path, getattr(torch, self._dtype))
        self._known()
        self._tokenizer = _tokenizer()
        self._probe = [[0, 1, 2]]

    def _load(self, path: str, dtype: Any, waiting: bool = False) -> Any:
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        torch.manual_seed(0)
        config = LlamaConfig(**self._architecture, bos_token_id=0, eos_token_id=1)
        with torch.device(self._device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)

    def shape(self) -> Shape:
        """What `candor plan` knows of a model."""
        config = self._base.config
        return Shape(
            weights=sum(p.numel() for p in self._base.parameters()),
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            words=config.vocab_size,
            inner=config.intermediate_size,
            heads=config.num_attention_heads,
        )

    def rows(self, job: TrainJob, settings: TrainerSettings) -> Rows:
        """Full rows, half of each a reply, so that there is no padding."""
        rng = random.Random(0)
        half, words = self._length // 2, self._base.config.vocab_size

        def tokens() -> list[int]:
            return [rng.randrange(2, words) for _ in range(half)]

        n = settings.batch_size * STEPS
        if settings.algorithm == "dpo":
            return Rows([Pair(tokens(), tokens(), tokens(), "bench") for _ in range(n)])
        return Rows([Encoded(tokens(), tokens(), [True] * half, bool(i % 2), "bench") for i in range(n)])


def run() -> dict[str, Any]:
    """All figures; takes four minutes on a GPU, and one on two cores."""
    import torch

    if torch.cuda.is_available():
        found = {
            **measure(LARGE, 2048, batch_size=16, lora=ADAPTER),
            **measure(LARGE, 2048, " recomputed", batch_size=16, lora=ADAPTER, gradient_checkpointing=True),
            **measure(MEDIUM, 2048, " all weights", batch_size=16, lora=None),
        }
    else:
        found = measure(SMALL, 256, batch_size=4, lora=ADAPTER)
    return {"ratio": found["sft"]["mfu"], "goal": 0.45, "runs": found["sft"].pop("steps"), **found}


def measure(architecture: dict[str, Any], length: int, note: str = "", **settings: Any) -> dict[str, Any]:
    """Figures of SFT and KTO on a model.

    Args:
        length: Tokens of a row, half of them a reply's.
        note: What is put after the names of the two.
        settings: Of the trainer.
    """
    trainer = Random(architecture, length)
    trainer.start()
    return {
        algorithm + note: _measure(
            trainer,
            TrainerSettings(**{"algorithm": algorithm, "micro_batch": 2, "max_length": length, **settings}),
        )
        for algorithm in ("sft", "kto")
    }


def _measure(trainer: Random, settings: TrainerSettings) -> dict[str, Any]:
    import gc

    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        gc.collect()  # models of the training before hold themselves in memory
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as folder:
        out = Path(folder)
        job = TrainJob("bench", 1, Store(folder, "none"), "", None, str(out / "1"), 0, str(out / "tb"))
        trainer.train(job, settings)
        events = EventAccumulator(str(out / "tb")).Reload()
        shown = events.Tags()["scalars"]
        rates = [e.value for e in events.Scalars("train/tokens_per_second")][WARM_UP:]
        used = [e.value for e in events.Scalars("train/mfu")][WARM_UP:] if "train/mfu" in shown else []
    shape = trainer.shape()
    return {
        "model": f"{shape.weights / 1e6:,.0f} million weights, {trainer._dtype}",
        "row_tokens": trainer._length,
        "tokens_per_second": round(statistics.median(rates)),
        "mfu": round(statistics.median(used), 3) if used else None,
        **(_memory(settings, shape) if on_gpu else {}),
        "steps": [round(v, 3) for v in used or rates],
    }


def _memory(settings: TrainerSettings, shape: Shape) -> dict[str, Any]:
    """GiB of the GPU: of tensors at most, of all that was taken at most, and what `candor plan` reckons with."""
    import torch

    free, total = torch.cuda.mem_get_info()
    besides = total - free - torch.cuda.memory_reserved()  # CUDA's own, and its kernels
    reckoned = trainer_memory(settings, shape, total)
    return {
        "tensors_gib": round(torch.cuda.max_memory_allocated() / GIB, 1),
        "peak_gib": round((torch.cuda.max_memory_reserved() + besides) / GIB, 1),
        "reckoned_gib": round(reckoned.total / GIB, 1),
        "reckoned": {name: round(size / GIB, 1) for name, size in reckoned.parts.items()},
    }


def _tokenizer() -> Any:
    """The least that a trainer takes for a tokenizer; no text is read here."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1}, unk_token="</s>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>")
