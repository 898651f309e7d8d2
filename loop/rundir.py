"""The run directory: where each thing is, and small files that are complete or absent."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors import extensions
from actors.storage.files import model_fingerprint, whole_file
from actors.storage.store import StorageError, Store
from actors.worlds import fingerprint
from loop.config.explain import ConfigError
from loop.config.files import Change, changes, dump, load
from loop.config.schema import RunConfig
from loop.runlog import RunLog
from loop.served import files_of


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
    def changes(self) -> Path:
        """Settings that were changed when the run was continued: a row for each, with its time."""
        return self.root / "changes.json"

    @property
    def model(self) -> Path:
        """Path or name of the base model, and a fingerprint of it."""
        return self.root / "model.json"

    @property
    def checks(self) -> Path:
        """What was found out about the models before the run began, and what asking endpoints cost."""
        return self.root / "checks.json"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def timing(self) -> Path:
        """How often engines and trainer were started, and the seconds from the command until they last were up."""
        return self.root / "timing.json"

    @property
    def heartbeat(self) -> Path:
        """What each actor is at, while the run is at work (`loop.heartbeat`)."""
        return self.root / "heartbeat.json"

    @property
    def log(self) -> Path:
        """Everything that the run says (`loop.runlog`)."""
        return self.root / "run.log"

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

    def engines(self, arm: str, round_: int) -> Path:
        """How replies of the round were sampled, and what its engines had in their prefix caches."""
        return self.round(arm, round_) / "engines.json"

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
        """Whole weights of a policy for engines that take no adapters; made again when missing."""
        return self.root / "policies" / arm / f".{version}.merged"

    def evals(self, arm: str, version: int) -> Path:
        return self.root / "evals" / arm / str(version)

    def open(self, config: RunConfig) -> None:
        """Make the directory and record the config, or check that it is the one recorded.

        Raises:
            ConfigError: The directory cannot be written, or belongs to another config.
        """
        found: list[Change] = []
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if self.config.exists():
                self.recorded()
                found = changes(self.config.read_text(encoding="utf-8"), config)
                if differs := [change.line for change in found if not change.allowed]:
                    raise ConfigError(
                        f"{self.root} belongs to a run with another config (config.yaml there); choose another --out, "
                        "or undo what differs:\n" + "\n".join(differs)
                    )
            elif any(not p.name.startswith(".") for p in self.root.iterdir()):
                raise ConfigError(f"{self.root} is not empty and is not a run directory; choose another --out")
            self._lock()
            self.sweep()
            if found:
                self._note(found)
            write_text(self.config, dump(config))
            if self.uri:
                self._claim(Store(self.uri, self.root.name))
        except OSError as error:
            raise ConfigError(f"--out {self.root}: cannot be written ({error.strerror})") from None
        except StorageError as error:
            raise ConfigError(f"buffer.uri: {error}") from None

    def _note(self, found: Sequence[Change]) -> None:
        """Record settings with which the run goes on, and when."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [{"at": at, "key": c.key, "before": c.before, "after": c.after} for c in found]
        write_json(self.changes, [*(read_json(self.changes) or []), *rows])
        for row in rows:
            RunLog(self.log).write("settings", f"{row['key']}: {row['before']} -> {row['after']}", **row)

    def recorded(self) -> RunConfig:
        """The config that the run began with.

        Raises:
            DamagedError: The file is not one.
        """
        try:
            return load(self.config)
        except ConfigError as error:
            raise DamagedError(f"{error}\nThe config that the run began with is damaged; {RESTORE}") from None

    def _claim(self, store: Store) -> None:
        """Make the run's folder in its storage its own, or check that it is.

        Raises:
            ConfigError: It cannot be reached, or is another run's.
        """
        mine = self.root / "storage.json"
        if not mine.exists():
            write_json(mine, {"folder": str(store), "run": uuid.uuid4().hex})
        known = _record(mine, "folder")
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
        return held(self.root)

    def sweep(self) -> None:
        """Remove what a killed run left half done, merged weights that can be made again, and the steps on the way to
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
        hold(self.root, "candor run")

    def pin_model(self, model: str, name: str | None = None) -> None:
        """Record which model the run is made with, or check that it is still the one.

        Args:
            name: Of a further model; None for the base.

        Raises:
            ConfigError: The model at `model` is not the one that the run began with.
        """
        path = self._model_record(name)
        found = {"model": model, "sha256": model_fingerprint(Path(model))}
        if not path.exists():
            write_json(path, found)
        elif (recorded := _record(path, "model", "sha256"))["sha256"] != found["sha256"]:
            raise ConfigError(
                f"{self.root} began with another {name or 'base'} model ({recorded['model']}, {recorded['sha256']}) "
                f"than the one given now ({model}, {found['sha256']}); choose another --out"
            )

    def _model_record(self, name: str | None) -> Path:
        return self.model if name is None else self.root / f"model-{name}.json"

    def pin_served(self, model: str, name: str | None = None) -> None:
        """Record the hash of every file of a model that is served, once it is on this machine, or check that they are
        still the same; arguments as of `pin_model`.

        Raises:
            ConfigError: They changed since the run began, as those of a hub name can.
        """
        path, found = self._model_record(name), files_of(model)
        recorded = _record(path, "model", "sha256")
        if not found:
            return
        if "files" not in recorded:
            write_json(path, recorded | found)
        elif changed := sorted(set(recorded["files"].items()) ^ set(found["files"].items())):
            then, now = (of.get("commit", "unknown") for of in (recorded, found))
            raise ConfigError(
                f"{self.root} began with other files of {model} than are served now, among them {changed[0][0]} "
                f"(commit {then} then, {now} now); set model_revision to the first, or choose another --out"
            )

    def pin_world(self, world: str) -> None:
        """Record which world the users of the run live in, or check that its files are still the same.

        Raises:
            ConfigError: They were changed since the run began.
        """
        path, found = self.root / "world.json", {"world": world, "sha256": fingerprint(world)}
        if not path.exists():
            write_json(path, found)
        elif (recorded := _record(path, "world", "sha256")) != found:
            raise ConfigError(
                f"{self.root} began with other files of the world ({recorded['world']}, {recorded['sha256']}) than "
                f"there are now ({world}, {found['sha256']}); undo the change, or choose another --out"
            )

    def pin_extensions(self, names: Sequence[str]) -> None:
        """Record the extensions that the run is made with, or check that their files are still the same.

        Raises:
            ConfigError: They were changed since the run began.
        """
        found = {n: hashlib.sha256(f.read_bytes()).hexdigest() for n, f in extensions.files(names).items()}
        path = self.root / "extensions.json"
        if not path.exists() and found:
            write_json(path, found)
        elif changed := [name for name, sha256 in _record(path).items() if found.get(name) != sha256]:
            raise ConfigError(
                f"{self.root} began with another version of {', '.join(changed)}; undo the change, or choose another "
                "--out"
            )


def _record(path: Path, *keys: str) -> dict[str, Any]:
    """A small file that the run began with, which has these keys."""
    found = read_json(path)
    if not isinstance(found, dict) or any(key not in found for key in keys):
        raise DamagedError(f"{path} is damaged: {', '.join(keys) or 'a mapping'} expected; {RESTORE}")
    return found


_CLAIM = "candor-run.json"
_LOCKS: list[Any] = []


def hold(folder: Path, command: str) -> None:
    """Keep every other process off a folder until this one ends.

    Raises:
        ConfigError: Another process has it.
    """
    lock = open(folder / ".lock", "w")  # noqa: SIM115, held open for the life of the process
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"{folder}: another {command} is using it") from None
    _LOCKS.append(lock)


def held(folder: Path) -> bool:
    """Whether a process keeps others off a folder."""
    try:
        with open(folder / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock to be had
        pass
    return False


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is complete or absent."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


RESTORE = "restore it, or choose another --out"


class DamagedError(ConfigError):
    """A file of a run directory that is not what was written; the message names it."""


def read_json(path: Path) -> Any:
    """The content of a JSON file, or an empty mapping when there is none.

    Raises:
        DamagedError: It is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, RecursionError):
        raise DamagedError(f"{path} is damaged: it is not the JSON that was written; {RESTORE}") from None
