"""The run directory: where each thing lies, and small files that are complete or absent."""

from __future__ import annotations

import fcntl
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.files import model_fingerprint, whole_file
from actors.store import StorageError, Store
from actors.worlds import fingerprint
from loop.config import ConfigError, RunConfig, differences, dump


@dataclass(frozen=True)
class RunDir:
    """Paths of one run.

    Attributes:
        root: The run directory, absolute.
        uri: Where trajectories are kept instead, `buffer.uri` of the config.
    """

    root: Path
    uri: str | None = None

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

    def plan(self, arm: str, round_: int) -> Path:
        """The conversations of the round, before any is held."""
        return self.round(arm, round_) / "plan.arrow"

    def trajectories(self, arm: str, round_: int) -> Store:
        folder = f"rounds/{arm}/{round_}/trajectories"
        return Store(self.uri, f"{self.root.name}/{folder}") if self.uri else Store(str(self.root), folder)

    def rollout(self, arm: str, round_: int) -> Path:
        """Figures of the round's trajectories, once all are there."""
        return self.round(arm, round_) / "rollout.json"

    def lost(self, arm: str, round_: int) -> Path:
        """What conversations of the round cost that were set aside."""
        return self.round(arm, round_) / "lost.json"

    def delivery(self, arm: str, round_: int) -> Path:
        """The proof that the engines serve the policy that the round talks with."""
        return self.round(arm, round_) / "delivery.json"

    def selection(self, arm: str, round_: int) -> Path:
        return self.round(arm, round_) / "selection.arrow"

    def audit(self, arm: str, round_: int) -> Path:
        """What the selection consists of."""
        return self.round(arm, round_) / "selection.json"

    def composition(self, arm: str, round_: int) -> Path:
        """What a policy is trained on where that is data; its record is `composition.json` beside it."""
        return self.round(arm, round_) / "composition.arrow"

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
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if self.config.exists():
                differs = differences(self.config.read_text(encoding="utf-8"), config)
                if differs:
                    raise ConfigError(
                        f"{self.root} belongs to a run with another config; choose another --out, or undo what "
                        "differs:\n" + "\n".join(differs)
                    )
            elif any(not p.name.startswith(".") for p in self.root.iterdir()):
                raise ConfigError(f"{self.root} is not empty and is no run directory; choose another --out")
            self._lock()
            self.sweep()
            write_text(self.config, dump(config))
            if self.uri:
                self._claim(Store(self.uri, self.root.name))
        except OSError as error:
            raise ConfigError(f"--out {self.root}: cannot be written ({error.strerror})") from None
        except StorageError as error:
            raise ConfigError(f"buffer.uri: {error}") from None

    def _claim(self, store: Store) -> None:
        """Make the run's folder in its storage its own, or check that it is.

        Raises:
            ConfigError: It cannot be reached, or is another run's.
        """
        mine = self.root / "storage.json"
        if not mine.exists():
            write_json(mine, {"folder": str(store), "run": uuid.uuid4().hex})
        known = read_json(mine)
        if known["folder"] != str(store):
            raise ConfigError(
                f"{self.root} keeps its trajectories in {known['folder']}, not in {store}; the run directory was "
                "renamed, so undo that"
            )
        record = json.dumps(known).encode()
        store.create()
        if _CLAIM not in store.names():
            with store.write(_CLAIM) as file:
                file.write(record)
        if store.read(_CLAIM).to_pybytes() != record:
            raise ConfigError(f"buffer.uri: {store} belongs to another run; choose another --out or uri")

    def at_work(self) -> bool:
        """Whether a process has the run open."""
        try:
            with open(self.root / ".lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no lock to be had
            pass
        return False

    def sweep(self) -> None:
        """Remove what a killed run left half done, merged weights that can be made anew, and the steps on the way to
        what is finished: checkpoints of policies and parts of evaluations that are there."""
        elsewhere = Store(self.uri, self.root.name).local if self.uri else None
        torn = [p for folder in (self.root, elsewhere) if folder for p in folder.rglob(".*.tmp")]
        from evals.evaluator import complete

        steps = self.root.glob("policies/*/.*.checkpoints")
        trained = [p for p in steps if p.with_name(p.name.split(".")[1]).exists()]
        asked = [p for p in self.root.glob("evals/*/*/parts") if complete(p.parent)]
        for left in [*torn, *trained, *asked, *self.root.glob("policies/*/.*.merged")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

    def _lock(self) -> None:
        """Keep every other process off this run until this one ends."""
        lock = open(self.root / ".lock", "w")  # noqa: SIM115, held open for the life of the process
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{self.root}: another candor run is at work there") from None
        _LOCKS.append(lock)

    def pin_model(self, model: str, name: str | None = None) -> None:
        """Record which model the run is made with, or check that it is still the one.

        Args:
            name: Of a further model; None for the base.

        Raises:
            ConfigError: The model at `model` is not the one that the run began with.
        """
        path = self.model if name is None else self.root / f"model-{name}.json"
        found = {"model": model, "sha256": model_fingerprint(Path(model))}
        if not path.exists():
            write_json(path, found)
        elif (recorded := read_json(path))["sha256"] != found["sha256"]:
            raise ConfigError(
                f"{self.root} began with another {name or 'base'} model ({recorded['model']}, {recorded['sha256']}) "
                f"than the one given now ({model}, {found['sha256']}); choose another --out"
            )

    def pin_world(self, world: str) -> None:
        """Record which world the users of the run live in, or check that its files are still the same.

        Raises:
            ConfigError: They were changed since the run began.
        """
        path, found = self.root / "world.json", {"world": world, "sha256": fingerprint(world)}
        if not path.exists():
            write_json(path, found)
        elif (recorded := read_json(path)) != found:
            raise ConfigError(
                f"{self.root} began with another text of the world ({recorded['world']}, {recorded['sha256']}) than "
                f"there is now ({world}, {found['sha256']}); undo the change, or choose another --out"
            )


_CLAIM = "candor-run.json"
_LOCKS: list[Any] = []


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is complete or absent."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or an empty mapping when there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
