"""The run directory: where each thing lies, and small files that are complete or absent."""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.files import whole_file
from loop.config import ConfigError, RunConfig, dump


@dataclass(frozen=True)
class RunDir:
    """Paths of one run."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def model(self) -> Path:
        """Path or name of the base model, and a fingerprint of it."""
        return self.root / "model.json"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    def round(self, arm: str, round_: int) -> Path:
        return self.root / "rounds" / arm / str(round_)

    def trajectories(self, arm: str, round_: int) -> Path:
        return self.round(arm, round_) / "trajectories"

    def selection(self, arm: str, round_: int) -> Path:
        return self.round(arm, round_) / "selection.arrow"

    def stages(self, arm: str, round_: int) -> Path:
        """Seconds and tokens of the round's stages."""
        return self.round(arm, round_) / "stages.json"

    def policy(self, arm: str, version: int) -> Path:
        return self.root / "policies" / arm / str(version)

    def merged(self, arm: str, version: int) -> Path:
        """Whole weights of a policy for engines that take no adapters; made anew when missing."""
        return self.root / "policies" / arm / f".{version}.merged"

    def evals(self, arm: str, version: int) -> Path:
        return self.root / "evals" / arm / str(version)

    def open(self, config: RunConfig) -> None:
        """Make the directory and record the config, or check that it is the one recorded.

        Raises:
            ConfigError: The directory cannot be written, or belongs to another config.
        """
        text = dump(config)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if self.config.exists():
                recorded = self.config.read_text(encoding="utf-8")
                if recorded != text:
                    changes = difflib.unified_diff(recorded.splitlines(), text.splitlines(), lineterm="", n=0)
                    lines = [d for d in changes if d[:1] in "+-" and d[:3] not in ("+++", "---")]
                    raise ConfigError(
                        f"{self.root} belongs to a run with another config; choose another --out, or undo what "
                        "differs (- recorded, + given):\n" + "\n".join(lines)
                    )
            elif any(p.name != ".lock" for p in self.root.iterdir()):
                raise ConfigError(f"{self.root} is not empty and is no run directory; choose another --out")
            self._lock()
            self.sweep()
            write_text(self.config, text)
        except OSError as error:
            raise ConfigError(f"--out {self.root}: cannot be written ({error.strerror})") from None

    def sweep(self) -> None:
        """Remove what a killed run left half done, and merged weights that can be made anew."""
        for left in [*self.root.rglob(".*.tmp"), *self.root.glob("policies/*/.*")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

    def _lock(self) -> None:
        """Keep every other process off this run until this one ends."""
        lock = open(self.root / ".lock", "w")  # noqa: SIM115, held open for the life of the process
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{self.root}: another candor run is at work there") from None
        _LOCKS.append(lock)

    def pin_model(self, model: str) -> None:
        """Record which base model the run is made with, or check that it is still the one.

        Raises:
            ConfigError: The model at `model` is not the one that the run began with.
        """
        found = {"model": model, "sha256": _fingerprint(Path(model))}
        if not self.model.exists():
            write_json(self.model, found)
        elif (recorded := read_json(self.model))["sha256"] != found["sha256"]:
            raise ConfigError(
                f"{self.root} began with another base model ({recorded['model']}, {recorded['sha256']}) than the one "
                f"given now ({model}, {found['sha256']}); choose another --out"
            )


_LOCKS: list[Any] = []
_FINGERPRINT_BYTES = 2**20


def _fingerprint(model: Path) -> str:
    """Hash of a model directory: names and sizes of its weights and tokenizer, and the ends of each.

    Whole files of a large model would take minutes. A hub name has no directory; its name is hashed.
    """
    found = hashlib.sha256(str(model).encode() if not model.is_dir() else b"")
    for path in sorted(p for kind in ("*.safetensors", "*.bin", "*.json", "*.jinja") for p in model.glob(kind)):
        size = path.stat().st_size
        found.update(f"{path.name}/{size}".encode())
        with open(path, "rb") as file:
            found.update(file.read(_FINGERPRINT_BYTES))
            file.seek(max(0, size - _FINGERPRINT_BYTES))
            found.update(file.read())
    return found.hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is complete or absent."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or an empty mapping when there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
