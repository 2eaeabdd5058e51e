"""Isolated hosts on this machine, each with its own network, processes, mounts and sshd.

The hosts are made by a script outside the project (`../shared/tools/hosts.sh`, or RAYDC_HOSTS),
which needs root. What happens on them happens through Ray's own commands, given by a launcher with
a home folder of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(os.environ.get("RAYDC_HOSTS", ROOT.parent / "shared" / "tools" / "hosts.sh"))
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
# A host sees the machine's file system through an overlay, without these: what raydc needs there
# must be brought.
HIDDEN = ("raydc", "examples", "tests", "cluster", "bench", "README.md", "pyproject.toml", ".git")


def find_obstacle() -> str | None:
    """Why there can be no isolated hosts on this machine, or None."""
    if os.geteuid() != 0:
        return "isolated hosts need root"
    if not SCRIPT.is_file():
        return f"no script for isolated hosts at {SCRIPT}; name it in RAYDC_HOSTS"
    path = os.environ["PATH"] + ":" + SBIN
    packages = {
        "sshd": "openssh-server",
        "ssh": "openssh-client",
        "rsync": "rsync",
        "ip": "iproute2",
    }
    missing = sorted(
        package for command, package in packages.items() if not shutil.which(command, path=path)
    )
    if missing:
        return f"missing packages: {' '.join(missing)}; .ci/install-test-packages installs them"
    probe = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--uts",
        "--ipc",
        "--fork",
        "mount",
        "-t",
        "tmpfs",
        "none",
        "/mnt",
    ]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
    """The first true value of a condition. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.5)


@dataclass
class Hosts:
    """Isolated hosts, numbered from 1. Every host has the folder `shared` at /shared.

    Args:
        folder: Takes what the hosts write.
        prefix: The first three numbers of their addresses.
        number: How many there are.
    """

    folder: Path
    prefix: str
    number: int

    def __post_init__(self) -> None:
        self.shared = self.folder / "shared"
        self.key = self.folder / "key"
        self.environment = {
            "RDC_DIR": str(self.folder),
            "RDC_NET": self.prefix,
            "RDC_BR": f"rt{os.getpid()}",
            "RDC_PREFIX": f"r{os.getpid()}",
            "RDC_SHARED": str(self.shared),
            "RDC_VENV": sys.prefix,
            "RDC_HIDE": " ".join(str(ROOT / name) for name in HIDDEN),
        }

    def up(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}='{value}'\n" for name, value in self.environment.items()]
        (self.folder / "environment").write_text("".join(lines) + f"RAYDC_HOSTS='{SCRIPT}'\n")
        self._script("up", str(self.number))
        for host in range(1, self.number + 1):
            self._bring_environment(host)

    def _bring_environment(self, host: int) -> None:
        # /tmp and the home folder are a host's own. A virtual environment there is hard-linked
        # into /shared.
        python = Path(sys.prefix, "bin", "python")
        if self.ssh(host, f"test -x {python}").returncode == 0:
            return
        linked = self.shared / "environment"
        if not linked.exists():
            subprocess.run(["cp", "--archive", "--link", sys.prefix, linked], check=True)
        link = f"mkdir -p {Path(sys.prefix).parent}"
        link += f" && ln -sfn /shared/environment {sys.prefix} && test -x {python}"
        self.ssh(host, link).check_returncode()

    def down(self) -> None:
        self._script("down")
        shutil.rmtree(self.folder)

    def _script(self, *arguments: str) -> None:
        environment = {**os.environ, **self.environment, "PATH": os.environ["PATH"] + ":" + SBIN}
        done = subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise RuntimeError(
                f"{SCRIPT.name} {' '.join(arguments)}: "
                f"{done.returncode}\n{done.stdout}{done.stderr}"
            )

    def power(self, host: int, on: bool) -> None:
        """Cuts the power of a host, so that others hear nothing more of it, or starts it again."""
        self._script("boot" if on else "kill", str(host))
        if on:
            self._bring_environment(host)

    def network(self, host: int, on: bool) -> None:
        """Cuts a host from the others, while it runs on and keeps /shared; or joins it again."""
        self._script("heal" if on else "cut", str(host))

    def address(self, host: int) -> str:
        return f"{self.prefix}.{10 + host}"

    def name(self, host: int) -> str:
        return f"{self.environment['RDC_PREFIX']}-h{host}"

    def ssh(
        self, host: int, command: str, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a login shell of a host."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        ssh = ["ssh", "-i", str(self.key), *(part for option in options for part in ("-o", option))]
        quoted = f"bash -lc {_quote(command)}"
        return subprocess.run(
            [*ssh, f"root@{self.address(host)}", quoted],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\"'\"'") + "'"


@dataclass
class Cluster:
    """Ray's launcher, with a cluster file and a home folder of its own."""

    hosts: Hosts
    home: Path
    file: Path = field(init=False)

    def __post_init__(self) -> None:
        self.file = self.home / "cluster.yaml"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "HOME": str(self.home),
            "RAY_TMPDIR": str(self.home / "tmp"),
            "RAY_AUTH_MODE": "token",
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}:{SBIN}",
        }

    def ray(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """A command of Ray's, given in the project's root. Standard error is part of the output."""
        try:
            done = subprocess.run(
                ["ray", *arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                text=True,
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            output = (
                error.stdout.decode(errors="replace")
                if isinstance(error.stdout, bytes)
                else error.stdout
            )
            raise TimeoutError(
                f"ray {' '.join(arguments)}: not within {timeout_s:.0f} s\n{output}"
            ) from error
        sys.stdout.write(f"$ ray {' '.join(arguments)}\n{done.stdout}exit code {done.returncode}\n")
        return done

    def submit(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """`ray submit CLUSTER examples/submit.py -- ...`"""
        return self.ray(
            "submit", str(self.file), "examples/submit.py", "--", *arguments, timeout_s=timeout_s
        )

    def num_nodes(self) -> int:
        """Machines on which Ray is alive."""
        listed = self.hosts.ssh(
            1, "RAY_AUTH_MODE=token ray list nodes --filter state=ALIVE --format json"
        )
        return listed.stdout.count('"node_id"') if listed.returncode == 0 else 0


def adapt(hosts: Hosts, name: str) -> dict[str, Any]:
    """Adapts `cluster/onprem.yaml` as a user would, for two hosts that have all dependencies."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / "onprem.yaml").read_text())
    config["cluster_name"] = name
    config["provider"]["head_ip"] = hosts.address(1)
    config["provider"]["worker_ips"] = [hosts.address(2)]
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    token_mode, *_ = config["setup_commands"]
    use_project = (
        "grep -qs PYTHONPATH ~/.bashrc || echo 'export PYTHONPATH=$HOME/project' >> ~/.bashrc"
    )
    config["setup_commands"] = [token_mode, use_project]
    for kind in ("head", "worker"):
        # The hosts share this machine's cores and memory, which Ray would count once for each.
        config[f"{kind}_start_ray_commands"][-1] += " --num-cpus=1 --object-store-memory=200000000"
    return config
