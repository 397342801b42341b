"""Workers on a Ray cluster: Ray chooses the machine of each and reserves its cores; all else is as on one machine.

Each worker is the same process as elsewhere, kept by a Ray actor on its node. When the actor or the driver ends, the
pipe to the process closes, and the process stops as it does without its supervisor; a cluster that kills it instead
(Ray's `kill_child_processes_on_worker_exit`), or loses the node, leaves its trial to the heartbeat.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasir.errors import RunError, UsageError
from nasir.search.devices import VISIBLE
from nasir.search.processes import Log, Process, limited

LOST = 1  # exit code of a worker whose node or keeper is gone
GOODBYE = 10.0  # seconds a keeper has to end its process


def connect(address: str | None) -> Any:
    """The ray module, connected to a cluster ("auto": the one this machine belongs to; None: one of its own)."""
    try:
        import ray
    except ImportError:
        raise UsageError("--ray needs Ray: pip install 'nasir[ray]'") from None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address is None:
            os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default, next to nothing beside other programs
            os.environ.setdefault("RAY_kill_child_processes_on_worker_exit", "0")  # they stop by themselves
            ray.init(include_dashboard=False, **options)
        else:
            ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"--ray {address or 'local'}: no cluster answers ({said}); start one with `ray start --head`, or correct "
            "the address"
        ) from None
    return ray


def gpus_of(ray: Any) -> tuple[float, float]:
    """GPUs of the cluster as it is now: of all nodes, and of the one that has the most."""
    return float(ray.cluster_resources().get("GPU", 0)), _largest(ray, "GPU")


def check_cluster(ray: Any, cpus: int | None, database: str | None) -> None:
    """Raise UsageError where no worker could ever start, or none reach the study.

    `cpus`: asked for each worker (None: an equal share). `database`: the place of a study in an SQLite file, else None.
    """
    largest = _largest(ray, "CPU")
    if cpus is not None and cpus > largest:
        raise UsageError(f"--ray-cpus {cpus}: the largest node of the cluster has {largest:g} cores")
    if database is not None and (count := sum(node["Alive"] for node in ray.nodes())) > 1:
        raise UsageError(
            f"{database}: an SQLite file works on one machine only, but the cluster has {count}; "
            "give the URL of a database server by --storage"
        )


def _largest(ray: Any, resource: str) -> float:
    return float(max((node["Resources"].get(resource, 0) for node in ray.nodes() if node["Alive"]), default=0))


class Keeper:
    """Runs on a node of the cluster: keeps one worker process."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], folder: str, threads: int) -> None:
        import ray  # which runs this

        # Ray sets the variable too, but not everywhere, and not in all versions for an actor without a GPU
        granted = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        own = limited({**os.environ, **environment, VISIBLE: ",".join(granted)}, threads)
        self.log = Log(Path(folder))
        self.log.begin(" ".join(arguments), own)
        self.worker = Process([sys.executable, *arguments], own, self.log)  # this node's Python

    def wait(self) -> tuple[int, str]:
        """The exit code of the worker and its last words."""
        while (code := self.worker.poll()) is None:
            time.sleep(0.1)
        return code, self.log.tail()

    def stop(self) -> None:
        self.worker.stop()

    def kill(self) -> None:
        self.worker.kill()


class RayWorker:
    """A worker somewhere in the cluster, or still waiting for free cores."""

    def __init__(self, ray: Any, keeper: Any) -> None:
        self.ray = ray
        self.keeper = keeper
        self.answer = keeper.wait.remote()
        self.code: int | None = None
        self.said = ""
        self.stopped = False

    def poll(self) -> int | None:
        if self.code is None and self.ray.wait([self.answer], timeout=0)[0]:
            try:
                self.code, self.said = self.ray.get(self.answer)
            except self.ray.exceptions.RayError as error:
                self.code, self.said = LOST, f"  {str(error).strip()}"
            self.ray.kill(self.keeper)
        return self.code

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            asked = self.keeper.stop.remote()
            if not self.ray.wait([asked], timeout=GOODBYE)[0]:  # never got its cores, or does not answer
                self._leave(signal.SIGTERM)

    def kill(self) -> None:
        if self.code is None:
            self.ray.wait([self.keeper.kill.remote()], timeout=GOODBYE)
            self._leave(signal.SIGKILL)

    def _leave(self, number: int) -> None:
        self.ray.kill(self.keeper)
        self.code = -number

    def tail(self) -> str:
        return self.said


class RayCluster:
    """A place for `workers` workers on the nodes of a Ray cluster."""

    def __init__(
        self,
        ray: Any,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        workers: int,
    ) -> None:
        """As `Processes`; folder and code lie at the same place on all nodes."""
        self.ray = ray
        self.arguments = tuple(command[1:])
        self.environment = dict(environment)
        self.folder = folder
        self.workers = workers
        self.token = uuid.uuid4().hex[:6]
        self.reserve(None, 0.0)

    def reserve(self, cpus: int | None, gpus: float) -> None:
        """Cores of each worker (None: an equal share of the cluster), and its GPUs, as `gpu_share` says."""
        share = int(self.ray.cluster_resources().get("CPU", 1)) // self.workers
        self.cpus = cpus or max(1, min(share, int(_largest(self.ray, "CPU"))))
        options = {"num_cpus": self.cpus, "num_gpus": gpus, "max_restarts": 0, "max_concurrency": 4}
        self.keeper = self.ray.remote(**options)(Keeper)

    def identity(self, slot: int, restart: int) -> str:
        return f"ray-{slot}-{self.token}.{restart}"

    def start(self, slot: int, restart: int) -> RayWorker:
        own = ["--identity", self.identity(slot, restart), "--slot", f"{slot}.{restart}.{self.token}"]
        try:
            keeper = self.keeper.remote([*self.arguments, *own], self.environment, str(self.folder), self.cpus)
        except self.ray.exceptions.RayError as error:
            raise RunError(f"Ray starts no worker: {str(error).strip()}") from None
        return RayWorker(self.ray, keeper)
