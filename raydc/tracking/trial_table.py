"""The table of a sweep's trials, in lines of text. Pure; shown by the driver."""

from __future__ import annotations

from collections.abc import Collection

from raydc.spec.sweep_section import format_cost
from raydc.tracking.trials import Trial, shorten


def format_table(
    trials: tuple[Trial, ...], winner: Trial, metric: str, front: Collection[int] = ()
) -> list[str]:
    """Formats all trials as aligned lines, after a header, and says how many were drawn again.

    Args:
        trials: Trials in the order of sampling.
        winner: The trial to mark with an asterisk.
        metric: Name of the validation metric.
        front: Numbers of the trials of a Pareto front, which get a plus sign.
    """
    paths = list(winner.values)
    costs = list(dict.fromkeys(name for trial in trials for name in trial.costs))
    cells = [["", "trial", *paths, "epochs", metric, *costs, "state"]]
    for number, trial in enumerate(trials):
        score = "" if trial.metric is None else f"{trial.metric:.4f}"
        values = [shorten(trial.values[path]) for path in paths]
        mark = ("*" if trial == winner else "") + ("+" if number in front else "")
        own = [format_cost(trial.costs[name]) if name in trial.costs else "" for name in costs]
        again = "" if trial.twin is None else f", trial {trial.twin} drawn again"
        cells.append(
            [mark, str(number), *values, str(trial.epochs), score, *own, trial.state + again]
        )
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    if num_again := sum(trial.twin is not None for trial in trials):
        lines.append(f"{num_again} of {len(trials)} samples were drawn again, and run once")
    return lines
