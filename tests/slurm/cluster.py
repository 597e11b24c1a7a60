"""A real SLURM of three nodes on this machine (see README.md in this folder)."""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # the daemons are not on everybody's
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
PATIENCE = 1200.0
"""Seconds to wait for anything that takes a few seconds on an idle machine."""

NAMESPACES = (
    *("setpriv", "--pdeathsig", "KILL"),  # no daemon outlives the tests
    *("unshare", "--pid", "--mount-proc", "--uts", "--fork", "--kill-child"),
)

CONFIGURATION = """\
ClusterName=testbed
SlurmctldHost={prefix}0(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until its credential has expired; the default is 120 s.
AuthInfo=socket={folder}/munge/socket,cred_expire=10
# Listen on 127.0.0.1 only.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
# The nodes have more CPUs than the machine; nothing checks or enforces that.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MinJobAge=3600
# Shorter than usual: seconds between SIGTERM and SIGKILL, and until a silent node is down.
KillWait=10
SlurmdTimeout=15
# Longer than usual: a machine that is busy with training may not answer within 10 s.
MessageTimeout=60
GresTypes=gpu
# Lightning derives its port from the job's number: two clusters must not use the same ones.
FirstJobId={first_job}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10
"""

_Found = TypeVar("_Found")


def why_not() -> str | None:
    """Why this machine cannot run the cluster, or None if it can."""
    if os.geteuid() != 0:
        return "the SLURM tests need root"
    if not is_installed() and shutil.which("apt-get") is None:
        return f"no SLURM, and no apt-get to install {' '.join(PACKAGES)}"
    try:
        tried = subprocess.run([*NAMESPACES, "hostname", "test"], capture_output=True, text=True)
    except OSError as error:
        return f"the SLURM tests need unshare: {error}"
    return f"the SLURM tests need namespaces: {tried.stderr.strip()}" if tried.returncode else None


def until(condition: Callable[[], _Found], what: str, told: Callable[[], str]) -> _Found:
    """Wait until `condition` returns something true, and return that.

    Args:
        condition: Called again and again.
        what: What is waited for.
        told: Called for the message if it never comes true.
    """
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited for {what}\n{told()}"
        time.sleep(0.005)
    return found


class Cluster:
    """Three nodes with 64 CPUs each. Jobs in the partition `urgent` preempt those in `debug`.

    Each cluster has its own folder, ports and node names, so that several can run at once.

    Args:
        folder: An empty folder that all users may enter; for the daemons' files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.conf = folder, folder / "slurm.conf"
        self._prefix, self._port = f"t{secrets.token_hex(2)}n", _free_ports(4)
        self.nodes = [f"{self._prefix}{number}" for number in (1, 2, 3)]
        ours = {name: text for name, text in os.environ.items() if not name.startswith("SLURM")}
        self._environment = {**ours, "SLURM_CONF": str(self.conf), "PATH": PATH}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        self._write_configuration()
        munge = self.folder / "munge"
        munge.mkdir()
        key = munge / "key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        files = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", "munged", "--foreground", f"--socket={munge / 'socket'}", *files)
        until((munge / "socket").exists, "munged", self.logs)
        self._start(f"{self._prefix}0", "slurmctld", "-D", "-f", str(self.conf))
        for node in self.nodes:
            self.restore(node)

    def down(self) -> None:
        for name in [*self._daemons]:
            self.crash(name)
        shutil.rmtree(self.folder)

    def crash(self, name: str) -> None:
        """Kill a node and all that runs on it, by killing the first process of its namespace."""
        daemon = self._daemons.pop(name)
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        kill([int(child) for child in children], signal.SIGKILL)
        daemon.wait()

    def restore(self, node: str) -> None:
        """Start a node, for the first time or after a crash, and wait until it can take jobs."""
        (self.folder / f"spool.{node}").mkdir(exist_ok=True)
        self._start(node, "slurmd", "-D", "-N", node, "-f", str(self.conf))

        def is_ready() -> bool:
            words = ["sinfo", "--noheader", "--nodes", node, "--format", "%T"]
            said = subprocess.run(words, env=self._environment, capture_output=True, text=True)
            return {*said.stdout.split()} <= {"idle", "mixed", "allocated"} and bool(said.stdout)

        until(is_ready, node, self.logs)

    def run(self, *words: str, cwd: Path | None = None) -> str:
        """Run a command of SLURM's and return its output."""
        done = subprocess.run(
            words, cwd=cwd, env=self._environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "".join(
            f"== {log.name}\n{log.read_text(errors='replace')[-2000:]}\n"
            for log in sorted(self.folder.glob("*.log"))
        )

    def _start(self, name: str, *command: str) -> None:
        """Start a daemon whose namespaces have the host name `name` and know all nodes by name."""
        script = 'mount --bind "$HOSTS" /etc/hosts && hostname "$NAME" && { "$@" & wait; }'
        variables = {"HOSTS": str(self.folder / "hosts"), "NAME": name}
        with (self.folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [*NAMESPACES, "sh", "-c", script, "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment | variables,
                start_new_session=True,
            )

    def _write_configuration(self) -> None:
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
        configuration = CONFIGURATION.format(
            folder=self.folder,
            prefix=self._prefix,
            port=self._port,
            first_job=1000 * (worker % 9 + 1) + secrets.randbelow(900),
        )
        for number, node in enumerate(self.nodes, 1):
            where = f"NodeAddr=127.0.0.1 Port={self._port + number}"
            configuration += f"NodeName={node} {where} CPUs=64 RealMemory=1000000\n"
        self.conf.write_text(configuration)
        version = self.run("slurmctld", "-V").split()[-1].split(".")
        has_plugin = [int(part) for part in version[:2]] >= [24, 5]
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n" * has_plugin)
        (self.folder / "state").mkdir()
        hosts = [f"127.0.0.1 {name}\n" for name in (f"{self._prefix}0", *self.nodes)]
        (self.folder / "hosts").write_text(f"{Path('/etc/hosts').read_text()}\n{''.join(hosts)}")


def is_installed() -> bool:
    return all(shutil.which(program, path=PATH) for program in PROGRAMS)


def install() -> str | None:
    """Install SLURM if it is missing, without starting its services; return why that failed."""
    with (Path(tempfile.gettempdir()) / "slurm-tests-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may come here at once
        if is_installed():
            return None
        policy = Path("/usr/sbin/policy-rc.d")
        is_ours = not policy.exists()
        if is_ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            options = ["--yes", "--no-install-recommends"]
            for words in (["update"], ["install", *options, *PACKAGES]):
                done = subprocess.run(["apt-get", *words], capture_output=True, text=True)
                if done.returncode:
                    return f"apt-get {words[0]} failed: {done.stderr.strip()}"
            return None
        finally:
            if is_ours:
                policy.unlink()


def kill(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process, number)


def _free_ports(count: int) -> int:
    """The first of `count` consecutive ports that nobody listens on."""
    while True:
        first = 20000 + secrets.randbelow(10000)
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.create_server(("127.0.0.1", port)):
                    pass
            return first
