"""The command `export`, which writes a model in the format of another library. In the driver."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from raydc.cli.app import STORAGE, report

if TYPE_CHECKING:
    from raydc.export.exported_folder import Form
    from raydc.storage import Storage

_FORMS = ("huggingface", "torch_export", "onnx")


@click.command()
@click.argument("model", metavar="RUN|MODEL:VERSION")
@STORAGE
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMS),
    required=True,
    help="A folder of Hugging Face, a program of torch.export, or ONNX.",
)
@click.option("--to", metavar="DIR", help="Folder to make. Default: NAME-FORMAT.")
@click.option(
    "--base",
    "with_base",
    is_flag=True,
    help="With huggingface, also write the network under the adapters of model.lora.",
)
def export(model: str, storage: str, form: Form, to: str | None, with_base: bool) -> None:
    """Write a model for other libraries, and compare it there.

    RUN is the best model of a run; MODEL:VERSION a registered one, by number or alias. What is
    written is loaded again, and its outputs are compared before the folder gets its name."""
    from raydc.errors import UsageError
    from raydc.storage import Storage

    if with_base and form != "huggingface":
        raise UsageError(f"--base has no meaning with --format {form}", "Leave it out.")
    name = model.partition(":")[0]
    folder = Path(to if to is not None else f"{name}-{form}")
    found = _find(Storage(storage), model)
    # Imported late: they load torch, and a name that does not exist needs none.
    from raydc import bundle
    from raydc.export import exported_folder

    exported_folder.require_free(folder)
    loaded = bundle.load(found)
    report(f"export    {model}: {found.uri}")
    for line in exported_folder.write(loaded, form, folder, with_base):
        report(f"export    {line}")
    report(f"done      {folder.absolute()}")


def _find(store: Storage, given: str) -> Storage:
    """The folder of the model of a run, or of a registered version."""
    from raydc.checksummed_folder import MANIFEST
    from raydc.errors import RunError
    from raydc.registry import Registry

    name, colon, which = given.partition(":")
    if colon:
        registry = Registry(store)
        return registry.folder(name, registry.resolve(name, which))
    from raydc.checkpoint import run_name

    run = store / "runs" / name
    run_name.require_run(run, store / "runs", name)
    if not run.exists(f"model/{MANIFEST}"):
        raise RunError(
            f"run {name!r} has no model yet", "It is written when the run ends: pass --resume."
        )
    return run / "model"
