"""The end of a command's process: signals, output that fails, exits of user code, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LONG_S = 60.0
# A command whose body is given, in a process of its own, as the entry point starts it.
_MAIN = """
import os, sys, threading, time, click
from raydc.cli.app import Commands, report
from raydc.cli import process
from raydc.engine import interruption
{setup}
@click.group(cls=Commands)
def main(): pass
@main.command()
def work():
{body}
sys.argv = ["raydc", "work"]
main()
"""
_SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


def heed_signals() -> None:
    """Undoes what a shell in the background, or nohup, has set to be ignored for its children."""
    for name in _SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def start(body: str, setup: str = "", **options: object) -> subprocess.Popen[str]:
    """Starts the command; its first line says that it is at work."""
    code = _MAIN.format(body=textwrap.indent(textwrap.dedent(body), "    "), setup=setup)
    given = {"preexec_fn": heed_signals, **options}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **given}
    return subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def interrupt(process: subprocess.Popen[str], number: int) -> tuple[int, str, str]:
    """Sends a signal once the command is at work; returns its exit code, stdout and stderr."""
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=LONG_S)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("SIGINT", "{work}"),
        ("SIGHUP", "{work}"),
        ("SIGTERM", "{work}"),
        ("SIGTERM", "with interruption.idle(): {work}"),
        ("SIGTERM", "with interruption.resumable(): {work}"),
    ],
)
def test_signal_ends_every_phase_with_its_code_and_one_line(name: str, phase: str) -> None:
    body = f"""
        try:
            {phase.format(work="report('at work'); time.sleep(100)")}
        finally:
            report("cleaned up")
    """
    process = start(body)
    code, out, err = interrupt(process, getattr(signal, name))
    hint = "; --resume goes on" if "resumable" in phase else ""
    assert (code, out, err) == (_SIGNALS[name], "cleaned up\n", f"interrupted{hint}\n")


@pytest.mark.parametrize(
    ("place", "out"),
    [
        ("interruption._Catcher.install", ""),
        ("click.Group.make_context", ""),
        ("process._leave_ray", "at work\n"),
    ],
    ids=["before", "parsing", "after"],
)
def test_signal_just_before_or_after_the_command_is_no_traceback(place: str, out: str) -> None:
    setup = f"""
real = {place}
def signalled(*arguments):
    real(*arguments)
    os.kill(os.getpid(), 15)
{place} = signalled
"""
    process = start("report('at work')", setup)
    said, err = process.communicate(timeout=LONG_S)
    assert (process.returncode, said, err) == (143, out, "interrupted\n")


@pytest.mark.parametrize(
    ("after", "note"),
    [
        ("raise ImportError('torn')", "; then torn"),
        ("from raydc.errors import RunError; raise RunError('full', 'hint')", "; then full"),
        ("from raydc import engine; engine.connect('127.0.0.1:1')", ""),
        # Without the interruption it would find that no Ray runs here, and the command would go on.
        (
            "from raydc.engine import connection, ray_start; "
            "ray_start.running_address = lambda: None; connection.attach()",
            "",
        ),
    ],
)
def test_interruption_that_an_import_swallows_still_ends_the_command(after: str, note: str) -> None:
    body = f"""
        try:
            report("at work")
            time.sleep(100)
        except BaseException:
            pass
        {after}
    """
    code, out, err = interrupt(start(body), signal.SIGTERM)
    assert (code, out, err) == (143, "", f"interrupted{note}\n")


def test_deferred_work_ends_by_itself_and_a_second_signal_does_not_wait() -> None:
    body = """
        with interruption.deferred():
            report("at work")
            while interruption.received() is None:
                time.sleep(0.01)
            report("kept")
        interruption.raise_received()
    """
    code, out, err = interrupt(start(body), signal.SIGTERM)
    assert (code, out, err) == (143, "kept\n", "interrupted\n")
    body = """
        interruption._REPEAT_S = 0.0
        with interruption.deferred():
            report("at work")
            while interruption.received() is None:
                time.sleep(0.01)
            report("goes on")
            time.sleep(100)
    """
    process = start(body)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "goes on\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG_S)
    assert (process.returncode, err) == (130, "interrupted\n")


@pytest.mark.parametrize("block", ["contextlib.nullcontext()", "interruption.deferred()"])
def test_process_ends_though_its_main_thread_hangs_where_no_handler_runs(block: str) -> None:
    # The line comes from a child of the C function in which the main thread waits.
    body = f"""
        import contextlib, ctypes
        interruption.KEEP_TIMEOUT_S, interruption.END_TIMEOUT_S = 0.1, 0.2
        with {block}:
            ctypes.CDLL(None).system(b"echo at work; read line")
    """
    process = start(body, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGTERM)
    # Before its standard input is closed, which would end the child.
    code = process.wait(LONG_S)
    _, err = process.communicate(timeout=LONG_S)
    assert (code, err) == (143, "interrupted; ended without waiting any longer\n")


def test_signal_that_is_ignored_from_outside_stays_ignored() -> None:
    body = """
        report("at work")
        sys.stdin.read()
        report("done")
    """
    process = start(
        body,
        stdin=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate("", timeout=LONG_S)
    assert (process.returncode, out) == (0, "done\n")


def test_reader_that_left_neither_stops_the_work_nor_is_called_storage(tmp_path: Path) -> None:
    body = f"""
        report("at work")
        sys.stdin.read()
        for _ in range(3):
            report("x" * 100_000)
            click.echo("warning", err=True)
        open({str(tmp_path / "done")!r}, "w").close()
    """
    process = start(body, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "at work\n"
    process.stdout.close()
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(LONG_S) == 0
    assert (tmp_path / "done").exists()


def test_full_disk_of_a_log_does_not_stop_the_work(tmp_path: Path) -> None:
    done = tmp_path / "done"
    with Path("/dev/full").open("w") as full:
        process = start(
            f"report('x' * 100_000); open({str(done)!r}, 'w').close()", stdout=full, stderr=full
        )
        assert process.wait(LONG_S) == 0
    assert done.exists()


def test_closed_descriptors_are_not_given_to_files(tmp_path: Path) -> None:
    place = tmp_path / "data"

    def close() -> None:
        os.close(1)
        os.close(2)

    body = f"""
        with open({str(place)!r}, "w") as file:
            report("lost")
            os.write(1, b"lost"), os.write(2, b"lost")
            file.write("data")
    """
    process = start(body, preexec_fn=close)
    process.communicate(timeout=LONG_S)
    assert (process.returncode, place.read_text()) == (0, "data")


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        ("sys.exit(0)", "SystemExit(0)"),
        ("sys.exit('bye')", "SystemExit('bye')"),
        ("raise SystemExit", "SystemExit(None)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_exit_of_user_code_is_a_failure(raised: str, shown: str) -> None:
    process = start(f"report('at work'); {raised}")
    out, err = process.communicate(timeout=LONG_S)
    assert (process.returncode, out) == (6, "at work\n")
    assert f"the command was ended by {shown} at <string>:" in err


def test_thread_of_user_code_does_not_keep_a_finished_process_alive() -> None:
    body = """
        from raydc.cli import process
        process._THREADS_TIMEOUT_S = 0.1
        threading.Thread(target=lambda: time.sleep(1000), name="loader").start()
    """
    process = start(body)
    _, err = process.communicate(timeout=LONG_S)
    assert (process.returncode, err) == (0, "note: ended while threads still ran: loader\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("OSError(28, 'No space left on device', '/x/y')", "/x/y: No space left on device"),
        ("OSError(13, 'Permission denied', '/x')", "/x: Permission denied\n  May this user"),
        ("OSError(24, 'Too many open files')", "raydc work failed at <string>:"),
        ("TimeoutError()", "TimeoutError"),
    ],
)
def test_error_of_the_system_has_its_place_and_a_hint_of_its_own(error: str, message: str) -> None:
    process = start(f"raise {error}")
    _, err = process.communicate(timeout=LONG_S)
    assert process.returncode == 5
    assert message in err
    assert "Traceback" not in err
    assert "torage" not in err


@pytest.mark.parametrize(
    ("left", "note"),
    [
        ("import atexit; atexit.register(time.sleep, 1000)", ""),
        (
            "threading.Thread(target=time.sleep, args=(1000,), name='loader').start()",
            "note: ended while threads still ran: loader\n",
        ),
    ],
)
def test_interrupted_process_ends_in_time_whatever_keeps_it_alive(left: str, note: str) -> None:
    body = f"""
        from raydc.cli import process
        # Such threads have a limit of their own, which is not added to that of the signal.
        process._THREADS_TIMEOUT_S = 1000.0
        interruption.END_TIMEOUT_S = 0.5
        {left}
        report("at work")
        time.sleep(1000)
    """
    code, _, err = interrupt(start(body), signal.SIGTERM)
    assert (code, err) == (143, f"interrupted\n{note}")


def test_slow_end_without_such_threads_is_left_alone() -> None:
    body = """
        import atexit
        from raydc.cli import process
        process._THREADS_TIMEOUT_S = 0.0
        # Ends once the timer has fired.
        atexit.register(
            lambda: [
                thread.join(30)
                for thread in threading.enumerate()
                if isinstance(thread, threading.Timer)
            ]
        )
        atexit.register(print, "ended by itself")
    """
    process = start(body)
    out, err = process.communicate(timeout=LONG_S)
    assert (process.returncode, out, err) == (0, "ended by itself\n", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_while_python_ends_is_no_traceback(name: str) -> None:
    body = f"""
        import atexit, signal
        atexit.register(lambda: (os.kill(os.getpid(), signal.{name}), time.sleep(60)))
    """
    process = start(body)
    _, err = process.communicate(timeout=LONG_S)
    # The system ends it, which shells report with the code of an interrupted command.
    assert (process.returncode, err) == (-getattr(signal, name), "")
