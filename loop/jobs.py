"""Runs as jobs of a Ray cluster: their drivers start on its head and outlive whoever submitted them.

What travels is the checked config, in which there is no key. A submission remembers its run directory, so that two jobs
are not given the same one, and a run that stopped goes on when it is submitted again.
"""

from __future__ import annotations

import asyncio
import shlex
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loop.config.explain import ConfigError
from loop.config.files import dump
from loop.config.schema import RunConfig

CONFIG = "config.yaml"
"""What the config is called where the job runs."""
STOP_SECONDS = 60
"""How long a run that is asked to stop may take before Ray kills it; Ray itself would give it three seconds."""
AT_WORK = ("PENDING", "RUNNING")
OURS = "candor_run"
"""The key of a job's metadata that says that it is a run, and the name of it."""


@dataclass(frozen=True)
class Job:
    """A run that was submitted.

    Attributes:
        id: Ray's name of the submission.
        status: `PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED` or `STOPPED`.
        message: What Ray says about that.
        began, ended: Seconds since 1970; None where it has not.
    """

    id: str
    run: str
    out: str
    status: str
    message: str
    began: float | None
    ended: float | None


def job_server(address: str) -> Any:
    """Ray's client of a cluster's job server.

    Raises:
        ConfigError: No job server answers at the address.
    """
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"--address {address}: give the address of Ray's dashboard, where jobs are submitted, for example "
            "http://10.0.0.4:8265"
        )
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"--address {address}: no Ray job server answers ({str(error).splitlines()[0]}); it listens on the head, "
            "at the port of the dashboard, and only for the head itself unless `ray start` got --dashboard-host"
        ) from None


def keys_of(config: RunConfig) -> list[str]:
    """Environment variables that the run reads keys from; they have to be set where Ray was started."""
    found = [s.key_env for s in config.endpoints.values() if s.key_env]
    return list(dict.fromkeys(found))


def entrypoint(out: Path) -> str:
    """The command line of the job."""
    return shlex.join(["candor", "run", CONFIG, "--out", str(out), "--set", "cluster.address=auto"])


def submit(client: Any, config: RunConfig, out: Path) -> str:
    """Submit a run; returns its id.

    Args:
        client: As of `job_server`.
        out: The run directory on storage that all machines share, absolute.

    Raises:
        ConfigError: A job has that directory, or the path is not absolute.
    """
    if not out.is_absolute():
        raise ConfigError(f"--out {out}: give an absolute path, on storage that every machine of the cluster shares")
    if others := [j for j in jobs(client) if j.out == str(out) and j.status in AT_WORK]:
        raise ConfigError(f"{out}: job {others[0].id} is at work there; stop it first, with --stop {others[0].id}")
    with tempfile.TemporaryDirectory(prefix="candor-submit-") as folder:
        (Path(folder) / CONFIG).write_text(dump(config), encoding="utf-8")
        return client.submit_job(
            entrypoint=entrypoint(out),
            submission_id=f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10_000:04d}",
            runtime_env={"working_dir": folder, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}},
            metadata={OURS: config.name, "candor_out": str(out)},
        )


def jobs(client: Any) -> list[Job]:
    """Every run that was submitted, the newest last; other jobs of the cluster are left out."""
    ours = [d for d in client.list_jobs() if OURS in (d.metadata or {})]
    return sorted((_job(d) for d in ours), key=lambda j: j.began or 0.0)


def job(client: Any, job_id: str) -> Job:
    """One of them.

    Raises:
        ConfigError: There is none with that id.
    """
    found = {j.id: j for j in jobs(client)}
    if job_id not in found:
        raise ConfigError(f"there is no run with the id {job_id}; known: {', '.join(found) or 'none'}")
    return found[job_id]


def _job(details: Any) -> Job:
    return Job(
        details.submission_id,
        details.metadata[OURS],
        details.metadata.get("candor_out", ""),
        str(getattr(details.status, "value", details.status)),
        details.message or "",
        details.start_time and details.start_time / 1000,
        details.end_time and details.end_time / 1000,
    )


def stop(client: Any, job_id: str) -> Job:
    """Ask a run to stop, as Ctrl-C does, and wait until it has.

    Raises:
        ConfigError: There is none with that id.
    """
    job(client, job_id)
    client.stop_job(job_id)
    deadline = time.monotonic() + STOP_SECONDS + 30
    while (found := job(client, job_id)).status in AT_WORK and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def follow(client: Any, job_id: str) -> Job:
    """Print what a run says until it ends."""

    async def show() -> None:
        async for lines in client.tail_job_logs(job_id):
            print(lines, end="", flush=True)

    asyncio.run(show())
    return job(client, job_id)


def facts(found: Job) -> dict[str, Any]:
    """A job for JSON."""
    return {"schema": "job/1", **asdict(found)}
