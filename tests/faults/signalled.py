"""A raydc command in a process of its own, to be disturbed in a phase that is waited for."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from raydc.data import small_jobs

WAIT_S = 240.0
_POLL_S = 0.02
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
# In the line of a command that had not ended by itself within the limit of ten seconds.
FORCED = "without waiting any longer"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Waits for a condition; fails with its name when the limit is over."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"no {what} in {WAIT_S:.0f} s"
        time.sleep(_POLL_S)


def processes_in(folder: Path) -> dict[int, str]:
    """Command lines, by number, of the processes whose working directory is in a folder.

    Ray's daemons and workers keep the working directory of the driver that started them. They
    have sessions and parents of their own, and their titles overwrite their environment.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        # A process may end while it is looked at; one that has ended has no working directory.
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and (entry / "cwd").readlink().is_relative_to(folder):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                found[int(entry.name)] = line
    return found


class Command:
    """A command whose output is read while it runs.

    Args:
        folder: Working directory, which no other process may have.
        arguments: The command and its arguments.
        path: Folder of modules that the spec names.
    """

    def __init__(self, folder: Path, arguments: tuple[str, ...], path: Path) -> None:
        self.folder, self.out = folder, ""
        self._errors: IO[str] = (folder / "stderr").open("w+")
        paths = [str(path), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from raydc.cli import main; main()", *arguments],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "RAYDC_NO_COLOR": "1",
                # What is left behind is of interest with Ray, which small rows would not start.
                small_jobs.SMALL_VARIABLE: "0",
            },
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # As a shell starts it: in a group of its own, with no signal ignored.
            start_new_session=True,
            preexec_fn=_heed_signals,
        )
        assert self._process.stdout is not None
        self._pipe: IO[bytes] | None = self._process.stdout
        os.set_blocking(self._pipe.fileno(), False)

    def says(self, text: str) -> bool:
        """Whether its output has this text by now."""
        self._read()
        return text in self.out

    def _read(self) -> None:
        while self._pipe is not None and (chunk := self._pipe.read()):
            self.out += chunk.decode()

    def errors(self) -> list[str]:
        """Lines of stderr, without those that say what a slow machine waits for."""
        lines = (self.folder / "stderr").read_text().splitlines()
        waits = ("waiting for Ray", "serve     waits")
        return [line for line in lines if line and not any(text in line for text in waits)]

    def starts_ray(self) -> bool:
        """Whether the first process of Ray is there."""
        return any("gcs_server" in line for line in processes_in(self.folder).values())

    def catches_signals(self) -> bool:
        """Whether it has got as far as to have a handler of SIGTERM."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for a condition while the command runs."""

        def holds() -> bool:
            assert self._process.poll() is None or condition(), (what, self.out, self.errors())
            return condition()

        wait_until(holds, what)

    def disturb(self, how: str) -> None:
        """Sends a signal, or closes the pipe from its stdout.

        Args:
            how: Name of a signal, which goes to the whole group after "group "; or "closed".
        """
        if how == "closed":
            self._read()
            assert self._pipe is not None
            self._pipe.close()
            self._pipe = None
            return
        number = getattr(signal, how.removeprefix("group "))
        send = os.killpg if how.startswith("group ") else os.kill
        send(self._process.pid, number)

    def has_ended(self) -> bool:
        self._read()
        return self._process.poll() is not None

    def wait(self) -> int:
        """Waits for its end; returns the exit code."""
        wait_until(self.has_ended, "end of the command")
        self._read()
        assert self._process.returncode is not None
        return self._process.returncode

    def kill(self) -> None:
        """Kills what is left of it, after a test that has failed."""
        for number in processes_in(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self._process.wait(WAIT_S)
        if self._pipe is not None:
            self._pipe.close()
        self._errors.close()


@contextlib.contextmanager
def started(folder: Path, path: Path, *arguments: str) -> Iterator[Command]:
    """Starts a command and kills what is left of it after the block.

    Args:
        folder: Working directory, which no other process may have.
        path: Folder of modules that the spec names.
        arguments: The command and its arguments.
    """
    command = Command(folder, arguments, path)
    try:
        yield command
    finally:
        command.kill()


@contextlib.contextmanager
def busy(num_processes: int) -> Iterator[None]:
    """Keeps that many CPUs busy in the block."""
    code = [sys.executable, "-c", "while True: pass"]
    loads = [subprocess.Popen(code) for _ in range(num_processes)]
    try:
        yield
    finally:
        for load in loads:
            load.kill()
            load.wait(WAIT_S)


def _heed_signals() -> None:
    # A shell in the background, or nohup, has them ignored for its children.
    for name in SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
