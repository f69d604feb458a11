"""Figures of a run that are files of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Panel:
    """A scatter of measured against predicted changes."""

    title: str
    predicted: Sequence[float]
    measured: Sequence[float]


def draw_scatters(rows: Sequence[Sequence[Panel]], path: Path) -> None:
    """Draw a grid of panels as SVG, each with the line on which prediction and measurement are equal."""
    import matplotlib as mpl  # it takes a while, and few runs are diagnosed
    from matplotlib.figure import Figure

    height, width = len(rows), len(rows[0])
    # the same numbers give the same bytes
    with mpl.rc_context({"svg.hashsalt": "selmix", "font.size": 9}):
        figure = Figure(figsize=(3.6 * width, 3.0 * height), layout="constrained")
        for axes_row, panels in zip(figure.subplots(height, width, squeeze=False), rows, strict=True):
            for axes, panel in zip(axes_row, panels, strict=True):
                axes.axhline(0, color="0.8", linewidth=0.8)
                axes.axvline(0, color="0.8", linewidth=0.8)
                axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle="--")
                axes.scatter(panel.predicted, panel.measured, s=10, alpha=0.7, linewidths=0)
                axes.set_title(panel.title, fontsize=9)
                axes.set_xlabel("predicted gain")
                axes.set_ylabel("measured / rate")
        figure.savefig(path, format="svg", metadata={"Date": None})
