"""A drill: a run whose driver, workers and nodes are killed by a schedule until it has ended.

Runs in the process of `raydc chaos`; each driver of the run is a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raydc import spec as specs
from raydc.errors import ChaosError
from raydc.loop import fault_injection
from raydc.loop.fault_injection import DRAIN, DRIVER, NODE, RESIZE, Fault
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import events, lease

# Finer than a step, so that a driver is killed soon after its fault has fired.
_POLL_EVERY_S = 0.05
_DRIVER_TIMEOUT_S = 1800.0
_SHOWN_LINES = 15
# Kills or drains (by the kind of fault) the node of the process with this id.
OnNode = Callable[[str, int], None]


@dataclass(frozen=True)
class FiredFault:
    """A fault that fired.

    Attributes:
        fault: Planned fault that fired.
        rank: Rank of the worker in which it fired.
        step: Steps that were done then.
        to_next_step_s: Seconds from there to the end of the next new step; None if the run was
            over.
    """

    fault: Fault
    rank: int
    step: int
    to_next_step_s: float | None


class Drill:
    """One run that is disturbed by a schedule.

    Args:
        spec: Resolved spec of `small.shrink_spec`, which allows the failures of the schedule.
        folder: Run folder, which must be new.
        data_folder: Prepared data set, which every driver loads again.
        address: Address of the Ray that drivers attach to.
        on_node: Drains or kills the node of a process; None if the schedule does neither.
    """

    def __init__(
        self,
        spec: ResolvedSpec,
        folder: Storage,
        data_folder: Storage,
        address: str,
        on_node: OnNode | None = None,
    ) -> None:
        self.folder = folder
        self._spec = spec
        self._data_folder = data_folder
        self._address = address
        self._on_node = on_node
        folder.write_json("resolved.json", specs.to_dict(spec))

    def run(self, schedule: Sequence[Fault] = ()) -> list[FiredFault]:
        """Trains until the run has ended, with a new driver after each that was killed.

        Args:
            schedule: Faults that should fire. Default: none, for an undisturbed run.

        Returns:
            The faults that fired, in order.

        Raises:
            ChaosError: A driver failed although no fault had killed it, or it hangs.
        """
        fault_injection.plan(self.folder, schedule)
        handled: set[str] = set()
        workers = ""
        try:
            while True:
                ended_by = self._run_driver(schedule, handled, workers)
                if ended_by is None:
                    return self._fired(schedule)
                # A resize lasts until the next one.
                workers = str(ended_by.workers or workers)
        except BaseException:
            # A killed driver leaves its lease behind, and no other driver takes the run over.
            self.folder.delete(lease.FILE)
            raise

    def _run_driver(
        self, schedule: Sequence[Fault], handled: set[str], workers: str
    ) -> Fault | None:
        """Runs one driver to its end; returns the fault that killed it, or None."""
        command = [
            sys.executable,
            "-m",
            "raydc.chaos.driver",
            self.folder.uri,
            self._data_folder.uri,
        ]
        with (
            tempfile.TemporaryFile("w+") as output,
            subprocess.Popen(
                [*command, self._address, workers],
                # It closes when this process ends, however that is, and the driver ends with it.
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                # Not killed by a Ctrl-C that is meant for this process.
                start_new_session=True,
            ) as process,
        ):
            try:
                return self._watch(process, schedule, handled)
            except ChaosError as error:
                output.seek(0)
                lines = output.read().splitlines()[-_SHOWN_LINES:]
                raise ChaosError("\n    ".join([error.message, *lines]), error.hint) from None
            finally:
                process.kill()

    def _watch(
        self, process: subprocess.Popen[str], schedule: Sequence[Fault], handled: set[str]
    ) -> Fault | None:
        """Waits for the driver's end or for a fault that this process has to carry out."""
        deadline_s = time.monotonic() + _DRIVER_TIMEOUT_S
        while time.monotonic() < deadline_s:
            # The exit code first, so that a fault that fired before the end is always seen.
            code = process.poll()
            fired = fault_injection.fired(self.folder)
            new = [fault for fault in schedule if fault.id in fired.keys() - handled]
            handled |= {fault.id for fault in new}
            for fault in new:
                if fault.kind in (DRIVER, RESIZE):
                    return fault
                if fault.kind in (NODE, DRAIN) and self._on_node is not None:
                    self._on_node(fault.kind, fired[fault.id]["pid"])
                # Without workers the driver itself trains, so every fault has killed it.
                if self._spec.scaling.max_workers == 0:
                    return fault
            if code == 0:
                return None
            if code is not None:
                raise ChaosError(
                    f"the run failed with exit code {code} although no fault had killed it"
                )
            time.sleep(_POLL_EVERY_S)
        raise ChaosError(f"the run had not ended after {_DRIVER_TIMEOUT_S:.0f} s")

    def _fired(self, schedule: Sequence[Fault]) -> list[FiredFault]:
        fired = fault_injection.fired(self.folder)
        steps = [
            record for record in events.read(self.folder, "metrics") if record["kind"] == "step"
        ]
        found = []
        for fault in schedule:
            if fault.id not in fired:
                continue
            proof = fired[fault.id]
            at_s, done = proof["time_s"], proof["step"]
            # The first new step after the fault.
            next_s = min(
                (r["time_s"] for r in steps if r["step"] > done and r["time_s"] > at_s),
                default=None,
            )
            found.append(
                FiredFault(fault, proof["rank"], done, None if next_s is None else next_s - at_s)
            )
        return sorted(found, key=lambda one: float(fired[one.fault.id]["time_s"]))
