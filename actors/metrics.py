"""Where figures go while a run is under way: one small interface, of which TensorBoard is an implementation.

Another sink is a class with these methods, and its place in `SINKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Histogram:
    """Values that were counted.

    Attributes:
        edges: Between which values were counted, one more than `counts`.
        count: How many values there are.
        total, squares: Sum of the values, and of their squares.
    """

    edges: Sequence[float]
    counts: Sequence[int]
    count: int
    total: float
    squares: float


@dataclass(frozen=True)
class Panel:
    """Figures that belong into one chart.

    Attributes:
        names: Regular expressions that their names match from the beginning; or where `band` is set, the names of the
            figure and of the ends of its interval.
    """

    title: str
    names: tuple[str, ...]
    band: bool = False


class Metrics(Protocol):
    """A sink of figures. What is logged again for a step replaces what was logged before.

    A name stands for one kind of thing: where a figure and a histogram share one, TensorBoard's server shows the figure
    alone. `about` and `arrange` may be left out.
    """

    def log(self, name: str, value: float, step: int) -> None:
        """One figure."""

    def histogram(self, name: str, values: Histogram, step: int) -> None:
        """How values are spread."""

    def text(self, name: str, text: str, step: int) -> None:
        """Markdown, for example a conversation."""

    def about(self, settings: Mapping[str, str | float | bool], results: Sequence[str]) -> None:
        """What was set, and the names of the figures by which settings are compared."""

    def arrange(self, panels: Mapping[str, Sequence[Panel]]) -> None:
        """Which figures belong together, by heading."""

    def flush(self) -> None:
        """Make visible what was logged so far."""

    def close(self) -> None:
        """Nothing more is logged."""


class TensorBoard:
    """Event files that `tensorboard --logdir` shows live.

    Args:
        folder: Where they are written.
        begin: The first step that is logged; what an earlier process wrote of it or later ones is not shown.
    """

    def __init__(self, folder: Path, begin: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=begin)

    def log(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def histogram(self, name: str, values: Histogram, step: int) -> None:
        self._writer.add_histogram_raw(
            name,
            min=float(values.edges[0]),
            max=float(values.edges[-1]),
            num=values.count,
            sum=values.total,
            sum_squares=values.squares,
            bucket_limits=list(values.edges[1:]),
            bucket_counts=list(values.counts),
            global_step=step,
        )

    def text(self, name: str, text: str, step: int) -> None:
        self._writer.add_text(name, text, step)

    def about(self, settings: Mapping[str, str | float | bool], results: Sequence[str]) -> None:
        from torch.utils.tensorboard.summary import hparams

        for part in hparams(dict(settings), dict.fromkeys(results, 0.0)):
            self._writer.file_writer.add_summary(part)

    def arrange(self, panels: Mapping[str, Sequence[Panel]]) -> None:
        layout = {
            heading: {p.title: ["Margin" if p.band else "Multiline", list(p.names)] for p in of}
            for heading, of in panels.items()
        }
        self._writer.add_custom_scalars(layout)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Several:
    """One sink that passes everything on to several."""

    def __init__(self, sinks: Sequence[Metrics]) -> None:
        self._sinks = sinks

    def log(self, name: str, value: float, step: int) -> None:
        for sink in self._sinks:
            sink.log(name, value, step)

    def histogram(self, name: str, values: Histogram, step: int) -> None:
        for sink in self._sinks:
            sink.histogram(name, values, step)

    def text(self, name: str, text: str, step: int) -> None:
        for sink in self._sinks:
            sink.text(name, text, step)

    def about(self, settings: Mapping[str, str | float | bool], results: Sequence[str]) -> None:
        for sink in self._sinks:
            if hasattr(sink, "about"):
                sink.about(settings, results)

    def arrange(self, panels: Mapping[str, Sequence[Panel]]) -> None:
        for sink in self._sinks:
            if hasattr(sink, "arrange"):
                sink.arrange(panels)

    def flush(self) -> None:
        for sink in self._sinks:
            sink.flush()

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


SINKS: list[Callable[[Path, int], Metrics]] = [TensorBoard]
"""What opens a sink in a folder, for the steps from a first one on."""


def open_metrics(folder: Path, begin: int = 0) -> Metrics:
    """Every sink, opened."""
    return Several([sink(folder, begin) for sink in SINKS])
