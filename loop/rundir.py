"""The run directory: where each thing lies, and small files that are complete or absent."""

from __future__ import annotations

import difflib
import json
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
            elif any(self.root.iterdir()):
                raise ConfigError(f"{self.root} is not empty and is no run directory; choose another --out")
            write_text(self.config, text)
        except OSError as error:
            raise ConfigError(f"--out {self.root}: cannot be written ({error.strerror})") from None


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is complete or absent."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or an empty mapping when there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
