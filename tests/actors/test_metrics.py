"""Sinks of figures, and several of them at once."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from actors import metrics
from actors.metrics import Histogram, TensorBoard, open_metrics

VALUES = Histogram(edges=[0.0, 1.0, 2.0], counts=[3, 1], count=4, total=3.0, squares=3.5)


def read(folder):
    return EventAccumulator(str(folder)).Reload()


def test_figures_histograms_and_texts_reach_tensorboard(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.log("rating/biased", 6.5, 2)
    sink.histogram("rating/biased", VALUES, 2)
    sink.text("transcripts/biased", "**user:** Hello.", 2)
    sink.close()
    events = read(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("rating/biased")] == [(2, 6.5)]
    spread = events.Histograms("rating/biased")[0].histogram_value
    assert (spread.num, spread.sum, spread.bucket_limit, spread.bucket) == (4, 3.0, [1.0, 2.0], [3.0, 1.0])
    assert "transcripts/biased/text_summary" in events.Tags()["tensors"]


def test_what_an_earlier_process_logged_of_later_steps_is_not_shown(tmp_path):
    for begin, value in ((0, 1.0), (2, 5.0)):
        sink = TensorBoard(tmp_path, begin)
        for step in range(begin, 4):
            sink.log("loss", value, step)
        sink.close()
    assert [e.value for e in read(tmp_path).Scalars("loss")] == [1.0, 1.0, 5.0, 5.0]


def test_another_sink_gets_everything_too(tmp_path, monkeypatch):
    class Kept:
        def __init__(self, folder, begin):
            self.begin, self.seen = begin, []
            kept.append(self)

        def __getattr__(self, name):
            return lambda *args: self.seen.append((name, *args))

    kept = []
    monkeypatch.setattr(metrics, "SINKS", [TensorBoard, Kept])
    sink = open_metrics(tmp_path, 3)
    sink.log("loss", 0.5, 3)
    sink.histogram("rating", VALUES, 3)
    sink.text("t", "x", 3)
    sink.flush()
    sink.close()
    assert kept[0].begin == 3
    assert kept[0].seen == [
        ("log", "loss", 0.5, 3),
        ("histogram", "rating", VALUES, 3),
        ("text", "t", "x", 3),
        ("flush",),
        ("close",),
    ]
    assert read(tmp_path).Scalars("loss")[0].value == 0.5
