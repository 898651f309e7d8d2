import asyncio
import os
import signal

import pytest

from actors.actor import Actor, ActorGone, answer, first_line, last_error

LOG = """\
INFO starting
Traceback (most recent call last):
  File "x.py", line 1, in <module>
ValueError: the model has no weights
(EngineCore pid=12) ERROR 11-21 16:00:00 [core.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB
Traceback (most recent call last):
vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.
RuntimeError: Engine core initialization failed. See root cause above.
"""


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (LOG, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"),
        ("\x1b[36m(pid=1)\x1b[0m all is well\n", None),
        ("Fatal Python error: Aborted\n\nStack:\n", "Fatal Python error: Aborted"),
        ("", None),
    ],
)
def test_the_last_error_is_the_one_that_says_something(tmp_path, log, told):
    (tmp_path / "log").write_text(log)
    assert last_error(str(tmp_path / "log")) == told


def test_an_actor_without_a_log_left_no_error(tmp_path):
    assert last_error(None) is None
    assert last_error(str(tmp_path / "none")) is None


def test_a_dead_actor_is_told_from_one_that_refuses(local_ray):
    import ray

    class Frail(Actor):
        def die(self):
            os.kill(os.getpid(), signal.SIGKILL)

        def refuse(self):
            raise ValueError("not so")

    actor = ray.remote(Frail).options(num_cpus=0.1).remote()
    assert ray.get(actor.ping.remote()).pid != os.getpid()

    async def ask(method):
        return await answer(getattr(actor, method).remote(), "frail one")

    with pytest.raises(ValueError, match="not so"):
        asyncio.run(ask("refuse"))
    with pytest.raises(ActorGone, match=r"the frail one died: .*unexpectedly exits") as gone:
        asyncio.run(ask("die"))
    assert "common causes" not in first_line(gone.value)
