"""Section `sweep` of a spec: what is searched, and how. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from raydc.spec.base import Count, Positive, Section, named
from raydc.spec.space import Domain


def format_cost(cost: float) -> str:
    """Formats a cost: whole numbers with separators, times with four digits."""
    return f"{cost:,.0f}" if cost == int(cost) else f"{cost:.4g}"


class SweepScheduler(Section):
    """Early stopping of trials."""

    name: Literal["asha", "fifo"] = Field(
        "asha",
        description="asha stops the worse trials early, by decisions that do not depend on which "
        "trial is first; fifo runs all.",
    )
    type: Literal["stopping", "promotion"] = Field(
        "stopping",
        description="stopping: of the first m trials of a rung, in the order of sampling, the last "
        "one goes on if it is among the best m / reduction_factor, rounded up. promotion: for each "
        "m the best m / reduction_factor go on, rounded down. For asha only.",
    )
    grace_period: Count = Field(1, description="Epochs before a trial may be stopped.")
    reduction_factor: Annotated[int, Field(ge=2)] = Field(
        3, description="Of this many trials one continues to the next rung."
    )


SearchAlg = Literal["random", "grid", "quasi_random", "tpe", "gp", "cmaes", "nsga2"]
# Those that choose a point with the results of trials before.
LEARNING = ("tpe", "gp", "cmaes", "nsga2")
# What a trial costs whoever uses its model; less is better.
Cost = Literal["parameters", "latency_ms"]
LATENCY: Cost = "latency_ms"
# Each trial has a folder of its own, and all of them are drawn before the first one starts.
MOST_SAMPLES = 100_000


class Sweep(Section):
    """A search over fields of the spec. The names are Ray Tune's."""

    space: dict[str, Domain] = Field(
        min_length=1, description="Search domain of each field, by its path."
    )
    num_samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = Field(
        8, description="Number of trials, at most as many as a grid has. --resume may add some."
    )
    max_concurrent_trials: Count | None = Field(
        None, description="Most trials at a time. Default: as many as fit the cluster."
    )
    scheduler: SweepScheduler = Field(
        SweepScheduler(), description="A name, or a name with arguments."
    )
    search_alg: SearchAlg = Field(
        "random",
        description="What chooses the points. random; grid: all combinations of choices, in a "
        "random order; quasi_random: evenly spread (Sobol); tpe, gp, cmaes and nsga2 learn from "
        "the trials before, by Optuna.",
    )
    lag: Count = Field(
        8,
        description="For tpe, gp, cmaes and nsga2: trial i is chosen with the first results of "
        "trials 0 to i - lag, on every cluster. So this many trials may run at a time; fewer learn "
        "faster.",
    )
    warm_start: list[str] = Field(
        default_factory=list,
        description="For tpe, gp, cmaes and nsga2: earlier results to begin with. Names of runs "
        "with a sweep in the same storage, or studies of Optuna: a URL of its storage such as "
        "sqlite:///study.db, the path of a journal file (.log), or $NAME for what the environment "
        "variable NAME holds, with #NAME if there are several studies. A password is allowed in "
        "the variable only. What does not fit the space is left out and counted.",
    )

    objectives: list[Cost] = Field(
        default_factory=list,
        description="Costs that a sweep makes small while it makes train.metric good: parameters "
        "of the network, and latency_ms, the time of a forward pass as a replica does it. The "
        "sweep then has a Pareto front. For scheduler: fifo.",
    )
    constraints: dict[Cost, Positive] = Field(
        default_factory=dict,
        description="The most that a model may cost, such as {parameters: 1e6, latency_ms: 5}. A "
        "trial above it is not trained, and counts as the worst.",
    )
    latency_rows: Count = Field(
        1,
        description="Rows of the pass whose latency_ms is measured; texts and lists in them are as "
        "long as they may be.",
    )

    @property
    def costs(self) -> tuple[Cost, ...]:
        """Costs that objectives or constraints name, each once."""
        return tuple(dict.fromkeys((*self.objectives, *self.constraints)))

    _expand_names = field_validator("scheduler", mode="before")(named)
