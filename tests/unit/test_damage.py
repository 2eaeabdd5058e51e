"""Every file of a store flipped, cut, emptied or deleted, in a loop over those that are there.

A run that is continued after that ends with the weights of the run that was left alone, or is
refused with the name of the file and what to do: never a traceback, never other weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from training import StopsAfter, training_spec, write_pictures

from raydc import bundle, pipeline, train
from raydc import spec as specs
from raydc.data import prepared, shards
from raydc.engine import Engine
from raydc.errors import RaydcError
from raydc.loop import worker
from raydc.loop.hooks import Hooks
from raydc.registry import Registry
from raydc.run_context import RunContext
from raydc.storage import Storage, sha256

NAME = "short"
# Two steps an epoch; the run is killed in its second epoch.
KILLED_AFTER, LAST = 3, 4


def no_ray() -> Engine:
    raise AssertionError("nothing here may need Ray")


def open_context(store: Path, lines: list[str]) -> RunContext:
    spec = training_spec(
        str(store),
        name=NAME,
        model={"name": "mlp", "hidden": [4]},
        train={"epochs": 2, "global_batch_size": 16, "log_every_steps": 1},
        checkpoint={"every_steps": 1, "num_to_keep": 9},
    )
    return RunContext(spec, no_ray, lines.append)


def data_of(store: Path) -> prepared.Prepared:
    """Opens the data set and reads all of its rows, as training and evaluation do."""
    data = prepared.load(Storage(str(store / "data" / "short-0")))
    for split in shards.SPLITS:
        rows = shards.open_rows(data.folder, split)
        assert len(rows.ids) == data.num_rows[split]
    return data


def ending(store: Path) -> dict[str, str]:
    """Hashes of the model, of the last checkpoint and of the model that the alias stands for."""
    registry, run = Registry(Storage(str(store))), store / "runs" / NAME
    version = registry.resolve(NAME, "production")
    loaded = bundle.load(registry.folder(NAME, version))
    loaded.check_golden()
    files = {
        "model": run / "model" / "model.safetensors",
        "last": run / "checkpoints" / f"step_{LAST:08d}" / "model.safetensors",
    }
    found = {name: sha256(path.read_bytes()) for name, path in files.items()}
    return {**found, "alias": f"version {version} {loaded.digest}"}


def continue_run(store: Path) -> list[str]:
    """Does what `raydc run --resume` does without Ray; returns the lines that it reports."""
    lines: list[str] = []
    context = open_context(store, lines)
    assert pipeline.begin_run(context, None, resume=True, new=False)
    folder = pipeline.train_model(context, data_of(store), resume=True)
    pipeline.register_model(context, folder, {"accuracy": 1.0})
    return lines


def make_store(store: Path) -> None:
    """A run that is half-finished, and a first version that an alias stands for."""
    context = open_context(store, [])
    num_rows = {"train": 32, "validation": 12, "test": 8}
    data = prepared.load(write_pictures(Storage(str(store / "data" / "short-0")), 0, num_rows))
    pipeline.begin_run(
        context, yaml.safe_dump(specs.to_dict(context.spec)), resume=False, new=False
    )
    with pytest.raises(KeyboardInterrupt):
        worker.fit(
            context.spec,
            context.run_folder,
            data.folder,
            hooks=Hooks(faults=StopsAfter(KILLED_AFTER)),
        )
    context.run_folder.write_json("evaluation.json", {"split": "test", "accuracy": 0.5})
    first = context.run_folder / "first"
    train.export(context.spec, data, context.run_folder, first, lambda _line: None)
    registry = Registry(context.storage)
    registry.register(NAME, first, {"run": "first"})
    registry.set_alias(NAME, "production", 1)
    registry.set_alias(NAME, "staging", 1)
    first.delete()


@pytest.fixture(scope="module")
def half_finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("half") / "store"
    make_store(store)
    return store


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small files would wait for the disk."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


def flip(place: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        if content:
            content[min(int(place * len(content)), len(content) - 1)] ^= 1
        path.write_bytes(content)

    return change


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped": flip(0.4),
    "cut": cut,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}
IN_TURN = ("cut", "emptied", "deleted")
MORE_DAMAGES = {f"flipped at {tenth / 10}": flip(tenth / 10) for tenth in range(11)}


def some(number: int) -> dict[str, Callable[[Path], None]]:
    """A flipped bit for every file, and for every second file one more damage in turn."""
    more = () if number % 2 else (IN_TURN[number // 2 % len(IN_TURN)],)
    return {name: DAMAGES[name] for name in ("flipped", *more)}


def every(_number: int) -> dict[str, Callable[[Path], None]]:
    return {**DAMAGES, **MORE_DAMAGES}


def files_of(store: Path) -> list[str]:
    return sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file())


def judge(store: Path, name: str, expected: dict[str, str]) -> str | None:
    """What is wrong with what came of a damaged file; None if nothing is."""
    try:
        continue_run(store)
        found = ending(store)
    except RaydcError as error:
        if name.rpartition("/")[2] not in error.message:
            return f"the refusal does not name the file: {error}"
        return None if error.hint else f"the refusal does not say what to do: {error}"
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"a traceback: {type(error).__name__}: {error}"
    if found == expected:
        return None
    return f"other weights: {found} instead of {expected}"


def all_wrong(
    template: Path,
    tmp_path: Path,
    damages_of: Callable[[int], dict[str, Callable[[Path], None]]],
) -> Iterator[str]:
    undamaged = tmp_path / "undamaged"
    shutil.copytree(template, undamaged)
    continue_run(undamaged)
    expected = ending(undamaged)
    names = files_of(template)
    assert len(names) > 45
    for number, name in enumerate(names):
        for damage, change in damages_of(number).items():
            store = tmp_path / "store"
            shutil.copytree(template, store)
            change(store / name)
            wrong = judge(store, name, expected)
            if wrong is not None:
                yield f"{name} {damage}: {wrong}"
            shutil.rmtree(store)


def test_half_finished_run_with_any_damaged_file_ends_alike_or_is_refused_by_name(
    half_finished: Path, tmp_path: Path
) -> None:
    wrong = list(all_wrong(half_finished, tmp_path, some))
    assert not wrong, "\n".join(wrong)


@pytest.mark.soak
@pytest.mark.parametrize("is_finished", [False, True])
def test_run_with_a_bit_flipped_anywhere_ends_alike_or_is_refused_by_name(
    half_finished: Path, tmp_path: Path, is_finished: bool
) -> None:
    template = tmp_path / "template"
    shutil.copytree(half_finished, template)
    if is_finished:
        continue_run(template)
    wrong = list(all_wrong(template, tmp_path, every))
    assert not wrong, "\n".join(wrong)
