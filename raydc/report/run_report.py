"""Writes the report of a run into its folder. Runs in the driver, after the run."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable

from raydc.checksummed_folder import MANIFEST
from raydc.data.prepared import Prepared
from raydc.errors import Say, describe, first_line
from raydc.report import diagnosis, run_page, run_record
from raydc.report.run_record import RunRecord
from raydc.storage import Storage, sha256
from raydc.tracking.phase_timer import read_account

FILE = "report.html"
# A diagnosis may take a tenth of the time of its run, within these limits.
_LEAST_LIMIT_S, _MOST_LIMIT_S = 3.0, 20.0
_LIMIT_FRACTION = 0.1


def write_after_run(run_folder: Storage, name: str, data: Prepared, report: Say) -> None:
    """Diagnoses the model of a run and writes its report; never fails.

    Args:
        run_folder: Folder of the run, which takes the report.
        name: Name of the run, for the report.
        data: Data set that the run was trained on.
        report: Prints one line: where the report is, or why there is none.
    """
    try:
        wall_s = read_account(run_folder).wall_s
        limit_s = min(_MOST_LIMIT_S, max(_LEAST_LIMIT_S, _LIMIT_FRACTION * wall_s))
        write(run_folder, name, lambda: data, limit_s)
        report(f"report    {run_folder.uri}/{FILE}")
    except Exception as error:  # noqa: BLE001 (the run is complete, whatever its report is)
        report(f"report    none: {describe(error)}; `raydc report {name}` tries again")


def write(
    run_folder: Storage, name: str, load_data: Callable[[], Prepared], limit_s: float
) -> RunRecord:
    """Writes the report of a run; diagnoses its model first if that was not done yet.

    Args:
        run_folder: Folder of the run, which takes the report.
        name: Name of the run, for the report.
        load_data: Opens the data set that the run was trained on.
        limit_s: Maximum seconds for the diagnosis; parts that do not fit are left out.

    Raises:
        OSError: The folder cannot be written.
    """
    reason = _diagnose(run_folder, load_data, limit_s)
    run = run_record.read(run_folder, name)
    if reason is not None:
        run.diagnosis.setdefault("left_out", []).append(f"the diagnosis: {reason}")
    run_folder.write_bytes(FILE, run_page.render(run, made_by()).encode())
    return run


def _diagnose(run_folder: Storage, load_data: Callable[[], Prepared], limit_s: float) -> str | None:
    """Writes the diagnosis of a run's model; returns a reason if there is none."""
    bundle_folder = find_model(run_folder)
    if bundle_folder is None:
        return "the run has no model yet"
    digest = sha256(bundle_folder.read_bytes(MANIFEST))
    try:
        known = run_folder.read_json(diagnosis.FILE)
    except (OSError, ValueError):
        known = None
    if diagnosis.is_of(known, digest):
        return None
    try:
        found = diagnosis.diagnose(bundle_folder, load_data(), limit_s)
    # The model may run code of a user, which may raise anything; the page can do without it.
    except Exception as error:  # noqa: BLE001
        return first_line(error) or describe(error)
    run_folder.write_json(diagnosis.FILE, found)
    return None


def find_model(run_folder: Storage) -> Storage | None:
    """Folder of the model of a run or of the best trial of its sweep; None without one."""
    folder = run_folder / "model"
    return folder if folder.exists(MANIFEST) else None


def made_by() -> str:
    """Program and time, for the last line of a page."""
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"Made by raydc {importlib.metadata.version('raydc')} on {now}."
