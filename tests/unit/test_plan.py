"""What will happen is arithmetic."""

from __future__ import annotations

import pytest

from raydc import plan, spec
from raydc.errors import ClusterError

BASE = "name: p\ndata: {source: a.csv}\nmodel: {name: linear}\nserve: {}\n"


def made(resources: dict[str, float], *overrides: str) -> plan.Plan:
    return plan.make(spec.resolve(spec.loads(BASE, overrides=overrides)), resources)


def test_plan_takes_the_workers_that_fit() -> None:
    assert made({"CPU": 8}, "scaling.num_workers=4").num_workers == 4
    assert made({"CPU": 3}, "scaling.num_workers={min: 1, max: 8}").num_workers == 3
    assert made({"CPU": 1}, "scaling.num_workers=0").num_workers == 0
    assert (
        made(
            {"CPU": 1.2}, "scaling.num_workers=3", "scaling.resources_per_worker={CPU: 0.4}"
        ).num_workers
        == 3
    )


def test_use_gpu_auto_needs_a_gpu_for_every_worker() -> None:
    assert made({"CPU": 8, "GPU": 2}, "scaling.num_workers=2").worker == {"CPU": 1.0, "GPU": 1.0}
    assert made({"CPU": 8, "GPU": 1}, "scaling.num_workers=2").worker == {"CPU": 1.0}
    assert made({"CPU": 8, "GPU": 4}, "scaling.use_gpu=false").worker == {"CPU": 1.0}


def test_use_gpu_auto_means_a_gpu_where_workers_reserve_a_part_of_one() -> None:
    workers, part = "scaling.num_workers=2", "scaling.resources_per_worker={CPU: 1, GPU: 0.6}"
    resolved = spec.resolve(spec.loads(BASE, overrides=(workers, part)))
    # Ray Train would refuse such workers without use_gpu.
    assert plan.uses_gpu(resolved, {"CPU": 8, "GPU": 1})
    with pytest.raises(ClusterError, match=r"2 worker\(s\) of 1 CPU, 0.6 GPU each do not fit"):
        made({"CPU": 8, "GPU": 1}, workers, part)
    assert made({"CPU": 8, "GPU": 2}, workers, part).num_workers == 2


def test_part_of_a_gpu_is_on_a_single_one() -> None:
    cases = ((0.6, 2, 2), (0.6, 5, 5), (0.3, 2, 6), (0.5, 1.5, 3), (0.2, 1, 5), (0.6, 0.5, 0))
    for amount, total, number in cases:
        assert plan.how_many({"GPU": amount}, {"GPU": total}) == number
    # Whole ones may be any, and other resources are one amount.
    assert plan.how_many({"GPU": 2}, {"GPU": 5}) == 2
    assert plan.how_many({"slot": 0.6}, {"slot": 2}) == 3


@pytest.mark.parametrize(
    ("resources", "override", "message"),
    [
        (
            {"CPU": 2},
            "scaling.num_workers=3",
            r"train: 3 worker\(s\) of 1 CPU each do not fit into 2 CPU",
        ),
        ({"CPU": 2}, "scaling.use_gpu=true", "1 CPU, 1 GPU each do not fit into 2 CPU, 0 GPU"),
        ({"CPU": 2}, "serve.ray_actor_options={num_gpus: 1}", r"serve: 1 replica\(s\) of 1 GPU"),
        (
            {"CPU": 2},
            "scaling.resources_per_worker={slot: 1}",
            "1 slot each do not fit into 0 slot",
        ),
    ],
)
def test_plan_names_the_amounts_that_do_not_fit(
    resources: dict[str, float], override: str, message: str
) -> None:
    with pytest.raises(ClusterError, match=message):
        made(resources, override)


def test_plan_has_the_stages_of_the_spec() -> None:
    assert made({"CPU": 2}).stages == ("prepare", "train", "evaluate", "register", "serve")
    swept = made({"CPU": 4}, "sweep.space={train.learning_rate: {uniform: [0.1, 1]}}", "serve=null")
    assert swept.stages == ("prepare", "sweep", "evaluate", "register")
    assert swept.num_concurrent_trials == 4


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (("scheduler=fifo", "search_alg=tpe", "lag=3"), 3),
        (("scheduler=fifo", "search_alg=tpe", "lag=3", "max_concurrent_trials=2"), 2),
        # Trials that go on run beside the first parts of others.
        (("search_alg=tpe", "lag=3"), 6),
        (("scheduler=fifo",), 6),
    ],
)
def test_trials_at_a_time_wait_for_the_results_that_draws_need(
    fields: tuple[str, ...], expected: int
) -> None:
    space = "sweep.space={train.learning_rate: {uniform: [0.1, 1]}}"
    given = [space, "sweep.num_samples=20", *(f"sweep.{field}" for field in fields)]
    assert made({"CPU": 6}, *given, "serve=null").num_concurrent_trials == expected


def test_plan_says_that_evaluation_shares_the_only_cpu() -> None:
    assert not any("share the only CPU" in line for line in made({"CPU": 2}).lines)
    lines = made({"CPU": 1}, "scaling.num_workers=1").lines
    assert any(
        line.startswith("evaluate") and line.endswith("share the only CPU") for line in lines
    )
    with pytest.raises(ClusterError, match=r"evaluate: 1 process of 1 CPU each do not fit into 0"):
        made({"CPU": 0}, "scaling.num_workers=0", "serve=null")


def test_num_threads_is_the_cpus_of_a_worker() -> None:
    assert plan.num_threads(spec.loads(BASE)) == 1
    assert (
        plan.num_threads(spec.loads(BASE, overrides=["scaling.resources_per_worker={CPU: 3}"])) == 3
    )
    assert (
        plan.num_threads(spec.loads(BASE, overrides=["scaling.resources_per_worker={CPU: 0.5}"]))
        == 1
    )


def test_plan_says_how_a_step_is_summed() -> None:
    assert (
        "256 rows a step in 4 logical shard(s)"
        in made({"CPU": 4}, "scaling.num_workers=4").lines[1]
    )
    assert "256 rows a step (exact: false)" in made({"CPU": 4}, "train.exact=false").lines[1]
