"""A frontend and workers on this machine, as processes."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

READY_TIMEOUT_S = 120


def free_port() -> int:
    """A port that nobody listens on now, below 32768: Dynamo keeps that of its metrics in 16 bits with a sign."""
    while True:
        with socket.socket() as probe:
            port = random.randrange(20_000, 32_768)
            if probe.connect_ex(("127.0.0.1", port)):
                return port


class Process:
    """A process with its log in a file."""

    def __init__(self, name: str, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.name = name
        self.log = log
        self.popen = subprocess.Popen(command, env=os.environ | env, stdout=log.open("wb"), stderr=subprocess.STDOUT)

    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self) -> int:
        """Ends it if need be; its exit code."""
        if self.is_alive():
            self.signal(signal.SIGTERM)
        try:
            return self.popen.wait(60)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


class Worker(Process):
    """`dsde-dynamo` with its own port for health and metrics."""

    def __init__(self, name: str, binary: str, options: list[str], log: Path, env: dict[str, str]) -> None:
        self.system = f"http://127.0.0.1:{(port := free_port())}"
        super().__init__(name, [binary, *options], log, env | {"DYN_SYSTEM_PORT": str(port)})

    def metrics(self) -> dict[str, float]:
        """Metrics by name, summed over labels."""
        sums: dict[str, float] = {}
        for line in fetch(f"{self.system}/metrics").splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.split("{", 1)[0]
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums


class Cluster:
    """A frontend, workers, and a folder in which they find each other."""

    def __init__(self, work: Path, binary: str, model: list[str], n_workers: int, frontend: list[str]) -> None:
        work.mkdir(parents=True)
        env = {"DYN_FILE_KV": str(work / "discovery")}
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.workers = [Worker(f"worker {i}", binary, model, work / f"worker-{i}.log", env) for i in range(n_workers)]
        command = [sys.executable, "-m", "dynamo.frontend", "--http-port", str(port), *frontend]
        # Its own metrics would want the port of a worker's.
        self.frontend = Process("frontend", command, work / "frontend.log", env | {"DYN_SYSTEM_PORT": "-1"})
        try:
            self.wait_until_ready()
        except BaseException:
            self.end()
            raise

    def wait_until_ready(self) -> None:
        """Waits until the model is listed and every worker says that it is healthy."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self.is_ready():
            for process in [self.frontend, *self.workers]:
                if not process.is_alive():
                    raise SystemExit(f"{process.name} has ended:\n{process.log.read_text()[-4000:]}")
            if time.monotonic() > deadline:
                raise SystemExit(f"not ready after {READY_TIMEOUT_S} s; logs are in {self.frontend.log.parent}")
            time.sleep(0.2)

    def is_ready(self) -> bool:
        try:
            is_healthy = all(fetch(f"{worker.system}/health") for worker in self.workers)
            return is_healthy and '"id"' in fetch(f"{self.url}/v1/models")
        except (urllib.error.URLError, OSError):
            return False

    def end(self) -> dict[str, int]:
        """Ends everything; exit codes by name."""
        for worker in self.workers:
            if worker.is_alive():
                worker.signal(signal.SIGTERM)
        return {process.name: process.end() for process in [*self.workers, self.frontend]}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()
