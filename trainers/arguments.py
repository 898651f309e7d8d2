"""What TRL is told of a training, the same for every algorithm."""

from __future__ import annotations

from typing import Any

from trainers.job import TrainJob
from trainers.settings import TrainerSettings


def arguments(job: TrainJob, s: TrainerSettings, device: str, dtype: str) -> dict[str, Any]:
    """Arguments of TRL's configs.

    Args:
        device: `cpu` or `cuda`.
        dtype: Number format of the frozen base weights.
    """
    on_cpu = device == "cpu"
    found = {
        "output_dir": str(job.checkpoints),
        "per_device_train_batch_size": s.together // s.ranks,
        "gradient_accumulation_steps": s.batch_size // s.together,
        "train_sampling_strategy": "sequential",
        "num_train_epochs": s.epochs,
        "learning_rate": s.learning_rate,
        "lr_scheduler_type": s.schedule,
        "weight_decay": s.weight_decay,
        "max_length": s.max_length,
        "gradient_checkpointing": s.gradient_checkpointing,
        "bf16": not on_cpu and dtype == "bfloat16",
        "use_cpu": on_cpu,
        "ddp_backend": ("gloo" if on_cpu else "nccl") if s.ranks > 1 else None,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": not on_cpu,
        "remove_unused_columns": False,
        "seed": job.seed % 2**31,
        "data_seed": job.seed % 2**31,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": s.checkpoint_steps,
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": True,
    }
    return found | ({"fsdp": True, "fsdp_config": {"version": 2}} if s.sharding == "fsdp2" else {})
