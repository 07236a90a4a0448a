"""Plot figures 6 and 7 of the ResNet paper, and gradients by layer, from numbers; knows no networks and no runs."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which may need a display

from detection.utils.atomic_io import replacing

_COLOURS = ("#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")  # Okabe and Ito, 2008
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """Training and test errors of a run, fractions 0..1, as (step, error)."""

    network: str
    seed: int
    training: Points
    testing: Points


@dataclass(frozen=True)
class Responses:
    """A value of each layer of a network, from the first to the last: a response's deviation, or a gradient's norm."""

    name: str
    values: Sequence[float]


def draw_errors(curves: Sequence[Curve], path: Path) -> None:
    """Plot figure 6: plain networks on the left, residual networks on the right; training error dashed, test error bold.

    Lines are medians over the seeds, bands range from the minimum to the maximum.
    """
    kinds = {
        "plain": [c for c in curves if "plain" in c.network],
        "residual": [c for c in curves if "plain" not in c.network],
    }
    kinds = {kind: members for kind, members in kinds.items() if members}
    figure = Figure(figsize=(5.5 * len(kinds), 4.5), layout="constrained")
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)
    for ax, (kind, members) in zip(axes[0], kinds.items(), strict=True):
        for name, colour in zip(dict.fromkeys(c.network for c in members), _cycle(), strict=False):
            runs = [c for c in members if c.network == name]
            _plot_band(ax, [c.training for c in runs], colour, f"{name}, training", linestyle="--", linewidth=1)
            _plot_band(ax, [c.testing for c in runs], colour, f"{name}, test", linewidth=2.2)
        seeds = len({c.seed for c in members})
        ax.set_title(f"{kind} networks ({seeds} seed{'s' if seeds > 1 else ''})")
        ax.set_xlabel("steps")
        ax.grid(alpha=0.3)
        ax.legend()
    axes[0][0].set_ylabel("error (%)")
    axes[0][0].set_ylim(bottom=0)
    _save(figure, path)


def _plot_band(ax: Axes, runs: Sequence[Points], colour: str, label: str, **line: object) -> None:
    by_step: dict[float, list[float]] = {}
    for points in runs:
        for step, error in points:
            by_step.setdefault(step, []).append(100 * error)
    steps = sorted(by_step)
    ax.plot(steps, [median(by_step[s]) for s in steps], color=colour, label=label, **line)  # type: ignore[arg-type]
    if len(runs) > 1:
        low, high = ([f(by_step[s]) for s in steps] for f in (min, max))
        ax.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)


def draw_responses(networks: Sequence[Responses], path: Path) -> None:
    """Plot figure 7: responses in layer order above, sorted by value below."""
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    axes = figure.subplots(2, 1)
    for responses, colour in zip(networks, _cycle(), strict=False):
        style = "--" if "plain" in responses.name else "-"
        for ax, values in zip(axes, (responses.values, sorted(responses.values, reverse=True)), strict=True):
            ax.plot(range(1, len(values) + 1), values, style, color=colour, label=responses.name, linewidth=1.5)
    for ax, order in zip(axes, ("layers in order", "layers sorted by their response"), strict=True):
        ax.set_xlabel(order)
        ax.set_ylabel("standard deviation")
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
        ax.legend()
    _save(figure, path)


def draw_gradients(networks: Sequence[Responses], path: Path) -> None:
    """Plot the norms of gradients in layer order on a logarithmic scale: a value for each layer of each network."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    ax = figure.subplots()
    for gradients, colour in zip(networks, _cycle(), strict=False):
        style = "--" if "plain" in gradients.name else "-"
        values = [value or float("nan") for value in gradients.values]  # a logarithm has no place for 0
        ax.plot(range(1, len(values) + 1), values, style, color=colour, label=gradients.name, linewidth=1.5)
    ax.set_yscale("log")
    ax.set_xlabel("layers in order")
    ax.set_ylabel("norm of the gradient at the layer's output")
    ax.grid(alpha=0.3)
    ax.legend()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    image = io.BytesIO()
    figure.savefig(image, dpi=130, format=path.suffix.removeprefix(".") or "png")
    with replacing(path) as part:
        part.write_bytes(image.getvalue())


def _cycle() -> list[str]:
    return list(_COLOURS) * 4
