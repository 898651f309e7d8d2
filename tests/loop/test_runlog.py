import json
import threading

from loop import runlog
from loop.runlog import RunLog, read_log


def test_lines_of_many_threads_are_whole_and_the_log_is_rotated(tmp_path, monkeypatch):
    monkeypatch.setattr(runlog, "MOST_BYTES", 20_000)
    log = RunLog(tmp_path / "run.log")

    def work(name):
        for n in range(500):
            log.write("said", f"{name} says {n} ö\n", number=n)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    files = sorted(tmp_path.glob("run.log*"))
    assert [f.name for f in files] == ["run.log", *(f"run.log.{n}" for n in range(1, runlog.KEPT + 1))]
    assert all(f.stat().st_size < 21_000 for f in files)
    rows = [json.loads(line) for f in files for line in f.read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"said"}
    assert all(row["at"].endswith("+00:00") for row in rows)


def test_a_torn_line_is_left_out(tmp_path):
    log = RunLog(tmp_path / "run.log")
    log.write("died", "one", actor="buffer-0")
    log.write("said", "two")
    with open(tmp_path / "run.log", "a") as file:
        file.write('{"at": "2026')
    assert [row["text"] for row in read_log(tmp_path / "run.log")] == ["one", "two"]
    assert [row["actor"] for row in read_log(tmp_path / "run.log", ("died",))] == ["buffer-0"]


def test_a_log_that_cannot_be_written_stops_nobody_and_makes_no_folder(tmp_path):
    RunLog(tmp_path / "gone" / "run.log").write("said", "x")
    assert not (tmp_path / "gone").exists()
    assert read_log(tmp_path / "gone" / "run.log") == []
