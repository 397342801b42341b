"""Which worker sees which CUDA device: what a search asks for, what there is, what is refused. No device is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from searches import SPEC, drive, spec

from nasir.cli.main import main
from nasir.errors import RunError, UsageError
from nasir.running.engine import Signals
from nasir.search import devices
from nasir.search.devices import VISIBLE, Demand, demand_of, divide, gpu_share, names, view, visible
from nasir.search.processes import Processes
from nasir.search.ray_workers import Keeper, RayCluster, gpus_of
from nasir.search.supervisor import Supervisor

PRUNE = "{prune-channels: {target: {latency: '50%'}}}"


def search(*changes: tuple[str, str], device: str | None = None, section: str = "trials: 3") -> Demand:
    """The demand of the small search with a device (None: the default), and text replaced."""
    text = SPEC.replace("device: cpu\n", f"device: {device}\n" if device else "")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return demand_of(spec(section, text))


def wanted(demand: Demand) -> list[str]:
    return [wish.name for wish in demand.wishes]


# -- what is asked for


@pytest.mark.parametrize(
    ("device", "wishes", "may", "must"),
    [
        (None, ["auto"], True, None),
        ("cpu", ["cpu"], False, None),
        ("cuda", ["cuda"], True, "cuda"),
        ("cuda:3", ["cuda:3"], True, "cuda:3"),
        ("{choose: [cpu, cuda]}", ["cpu", "cuda"], True, "cuda"),
        ("{choose: [cpu, null]}", ["cpu", "auto"], True, None),
        ("{choose: [auto, cuda:1], default: auto}", ["auto", "cuda:1"], True, "cuda:1"),
    ],
)
def test_the_device_of_every_trial_is_known(device: str | None, wishes: list[str], may: bool, must: str | None) -> None:
    demand = search(device=device)
    assert wanted(demand) == wishes and demand.may == may and demand.clocks == ()
    assert (demand.must.name if demand.must else None) == must


def test_the_device_that_latency_is_measured_on_counts() -> None:
    section = "objective: {minimize: latency_ms}\nlatency: {device: cuda}"
    demand = search(device="cpu", section=section)
    assert demand.may and str(demand.must) == "small.yaml:27:21: search.latency.device: cuda"
    assert demand.clocks[0].on_cuda(True) and not demand.clocks[0].on_cpu(True)
    unused = search(device="cpu", section="latency: {device: cuda}")
    assert not unused.may and unused.clocks == ()
    on_cpu = search(section="constraints: [latency_ms <= 3]").clocks
    assert [clock.on_cpu(True) for clock in on_cpu] == [True]


def test_a_pass_with_a_latency_target_is_found_in_every_alternative() -> None:
    do = "do: {insert-block: {init: {choose: [zero, gaussian], name: init}}}"
    assert not search().clocks
    for written in (f"do: {PRUNE}", f"do: {{choose: [{{insert-block: {{init: zero}}}}, {PRUNE}]}}"):
        [clock] = search((do, written), device="{choose: [cpu, cuda]}").clocks
        assert "prune-channels" in clock.what and clock.devices == {"cpu", "cuda"}
    macs = PRUNE.replace("latency", "macs")
    assert not search((do, f"do: {macs}")).clocks


def test_passes_of_repeated_phases_are_found_and_unknown_ones_left_out() -> None:
    text = SPEC.replace("phases:\n", "plugins: [./mine.py]\nphases:\n  - repeat: 2\n    phases:\n").replace(
        "  - name: grow",
        "      - {name: first, epochs: 1, rules: [{when: end, do: my-pass}, "
        f"{{when: end, do: {PRUNE}}}], optimizer: {{sgd: {{lr: 0.1}}}}}}\n  - name: grow",
    )
    [clock] = demand_of(spec(text=text)).clocks
    assert "prune-channels" in clock.what


# -- what there is


@pytest.mark.parametrize(
    ("mask", "count", "devices"),
    [
        (None, 3, ("0", "1", "2")),
        (None, 0, ()),
        ("", 0, ()),
        ("-1", 0, ()),
        ("NoDevFiles", 0, ()),
        ("4, 5", 2, ("4", "5")),
        ("1,7,0", 1, ("1",)),  # there is no device 7, and what comes after a wrong one does not count
        ("GPU-8932f937,GPU-1b0a", 2, ("GPU-8932f937", "GPU-1b0a")),
        ("MIG-aa/1/0,MIG-bb/2/0,0", 1, ("MIG-aa/1/0", "MIG-bb/2/0")),  # CUDA shows a process one instance
        ("MIG-aa/1/0", 0, ()),
    ],
)
def test_devices_keep_the_names_they_were_given(mask: str | None, count: int, devices: tuple[str, ...]) -> None:
    assert names(mask, count) == devices


def test_another_process_counts_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "COUNT", f"import os; print('noise'); print(os.environ['{VISIBLE}'].count(',') + 1)")
    assert visible({VISIBLE: "6,7"}) == ("6", "7")
    monkeypatch.setattr(devices, "COUNT", "raise SystemExit('libcudart.so: not found')")
    with pytest.raises(RunError, match=r"(?s)torch cannot list the CUDA devices.*libcudart.so: not found"):
        visible({})


@pytest.mark.slow
def test_torch_is_asked_and_stays_out_of_the_supervisor() -> None:
    code = (
        "import sys\nfrom nasir.search import board, devices, processes, supervisor\n"
        "assert devices.visible() == ()\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, VISIBLE: ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- workers of this machine


def test_each_worker_gets_a_device_of_its_own() -> None:
    for device in (None, "cuda", "{choose: [cpu, auto]}"):
        division = divide(search(device=device), ("GPU-a", "GPU-b"), 2)
        assert division.devices == ("GPU-a", "GPU-b") and division.notes == ()
    assert [view(division.devices, slot) for slot in (1, 2)] == [{VISIBLE: "GPU-a"}, {VISIBLE: "GPU-b"}]


@pytest.mark.parametrize(
    ("device", "have", "workers"),
    [("cpu", ("0", "1"), 8), (None, (), 8), (None, ("0", "1"), 1), ("cuda", ("0",), 1), ("cuda:1", ("0", "1"), 1)],
)
def test_where_nothing_is_divided_workers_see_what_the_search_sees(
    device: str | None, have: Sequence[str], workers: int
) -> None:
    division = divide(search(device=device), have, workers)
    assert division.devices == () == division.notes and view(division.devices, 1) == {}


@pytest.mark.parametrize(
    ("device", "have", "workers", "each", "message"),
    [
        (
            None,
            ("0", "1"),
            5,
            1,
            "--workers 5: torch sees 2 CUDA devices here; use --workers 2, or --workers-per-device 3 to let them "
            "share, or set `device: cpu`",
        ),
        (
            "cuda",
            ("GPU-a",),
            3,
            2,
            "--workers 3: torch sees 1 CUDA device here (CUDA_VISIBLE_DEVICES=GPU-a) for 2 workers each; use "
            "--workers 2, or --workers-per-device 3 to let them share, or set `device: cpu`",
        ),
        (
            "cuda",
            (),
            1,
            1,
            "small.yaml:4:9: device: cuda, and torch sees no CUDA devices here; use `auto` or `cpu`, or look at "
            "CUDA_VISIBLE_DEVICES and the driver",
        ),
        (
            "cuda:1",
            ("0", "1"),
            2,
            1,
            "small.yaml:4:9: device: cuda:1: 2 workers would all be on this one device; use `cuda`, which gives each "
            "worker one of its own, or --workers-per-device 2 to let them share",
        ),
        (
            "cuda:2",
            ("3",),
            1,
            1,
            "device: cuda:2, and torch sees 1 CUDA device here (CUDA_VISIBLE_DEVICES=3), numbered",
        ),
        ("{choose: [cuda:0, cuda:1]}", ("0", "1"), 2, 1, "device: cuda:1: 2 workers would all be on this one device"),
    ],
)
def test_what_cannot_be_had_is_refused(
    device: str | None, have: Sequence[str], workers: int, each: int, message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        divide(search(device=device), have, workers, each)
    assert message in str(refused.value)


def test_devices_are_shared_when_that_is_asked_for() -> None:
    division = divide(search(), ("0", "1"), 3, 2)
    assert [view(division.devices, slot)[VISIBLE] for slot in (1, 2, 3)] == ["0", "1", "0"]
    assert division.notes == (
        "3 workers share 2 CUDA devices: memory is shared, and times and speeds are those of a device that others load",
    )
    assert divide(search(), ("0", "1"), 2, 2).notes == ()
    numbered = divide(search(device="cuda:1"), ("0", "1"), 2, 2)  # which would not be there under a mask
    assert numbered.devices == () and numbered.notes[0].startswith("2 workers share 1 CUDA device:")


def test_nothing_is_timed_on_a_shared_device() -> None:
    latency = search(device="cuda", section="constraints: [latency_ms <= 3]\nlatency: {device: cuda}")
    with pytest.raises(UsageError, match=r"^latency_ms would be timed on .*; use --workers 2, or aim at macs"):
        divide(latency, ("0", "1"), 3, 2)
    assert divide(latency, ("0", "1"), 2, 2) == divide(latency, ("0", "1"), 2)
    do = "do: {insert-block: {init: {choose: [zero, gaussian], name: init}}}"
    with pytest.raises(UsageError, match="prune-channels aims at a latency, which would be timed"):
        divide(search((do, f"do: {PRUNE}")), ("0",), 2, 2)
    divide(search((do, f"do: {PRUNE}")), (), 2, 2)


def test_it_is_told_that_workers_load_the_cpu_that_is_timed() -> None:
    latency = search(section="constraints: [latency_ms <= 3]")
    assert divide(latency, (), 1).notes == ()
    for have in ((), ("0", "1")):
        [note] = divide(latency, have, 2).notes
        assert (
            note
            == "latency_ms is timed on the CPU while other workers load it, so it varies; --workers 1 times it alone"
        )
    do = "do: {insert-block: {init: {choose: [zero, gaussian], name: init}}}"
    auto = search((do, f"do: {PRUNE}"))
    assert divide(auto, ("0", "1"), 2).notes == () and "timed on the CPU" in divide(auto, (), 2).notes[0]


class Board:
    """A study with nothing in it."""

    outages: tuple[type[Exception], ...] = ()

    def began(self, worker: str) -> bool:
        return True

    def reap(self, workers: list[str]) -> None:
        pass

    def watch(self) -> int:
        return 0


def test_workers_see_their_device_also_when_they_are_started_again(tmp_path: Path) -> None:
    mark = tmp_path / "died"
    script = (
        f"import os, sys\nprint('sees', os.environ['{VISIBLE}'], flush=True)\n"
        f"if os.environ['{VISIBLE}'] == 'GPU-b' and not os.path.exists(p := {str(mark)!r}):\n"
        "    open(p, 'w')\n    os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, VISIBLE: "GPU-a,GPU-b"}
    here = Processes([sys.executable, "-c", script], environment, tmp_path / "workers", 2, devices=("GPU-a", "GPU-b"))
    Supervisor(2, here, Board(), Signals()).run()
    here.close()
    first, second = ((tmp_path / "workers" / f"{number}.log").read_text().splitlines() for number in (1, 2))
    assert first[0].endswith(f" {here.identity(1, 0)}, {VISIBLE}=GPU-a") and first[1:] == ["sees GPU-a"]
    assert [line for line in second if line.startswith("sees")] == 2 * ["sees GPU-b"]
    assert second[2].endswith(f" {here.identity(2, 1)}, {VISIBLE}=GPU-b") and mark.exists()


# -- the command


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search for any device, in the current folder, on a machine with two."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NASIR_STORAGE", raising=False)
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(devices, "_count", lambda environment, backend: 2)
    (tmp_path / "small.yaml").write_text(SPEC.replace("device: cpu\n", "") + "  trials: 3\n")
    return tmp_path


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where supervisors would have run their workers, which all do nothing and leave every trial."""
    launchers: list[Any] = []

    def run(self: Supervisor) -> None:
        launchers.append(self.launcher)

    monkeypatch.setattr(Supervisor, "run", run)
    return launchers


def test_more_workers_than_devices_are_refused_before_there_is_a_study(
    two: Path, places: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "small.yaml", "--workers", "3"]) == 2
    assert "--workers 3: torch sees 2 CUDA devices here" in capsys.readouterr().err
    assert [path.name for path in two.iterdir()] == ["small.yaml"] and not places


def test_the_command_deals_devices_out(
    two: Path, places: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "small.yaml", "--workers", "2"]) == 1  # no trial is done
    assert places[-1].devices == ("0", "1") and "note: " not in capsys.readouterr().err
    monkeypatch.setenv(VISIBLE, "GPU-a,GPU-b")
    assert main(["search", "studies/small", "--workers", "3", "--workers-per-device", "2"]) == 1
    assert places[-1].devices == ("GPU-a", "GPU-b")
    assert "note: 3 workers share 2 CUDA devices" in capsys.readouterr().err
    assert main(["search", "studies/small", "--workers", "3"]) == 2
    assert f"({VISIBLE}=GPU-a,GPU-b); use --workers 2" in capsys.readouterr().err
    assert main(["search", "studies/small", "--workers", "3", "--trials", "4"]) == 2
    assert main(["search", "studies/small"]) == 1 and places[-1].devices == ()
    assert "small: 3 trials;" in capsys.readouterr().err  # none was added by the refused command


def test_a_search_on_the_cpu_asks_nobody_for_devices(
    two: Path, places: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_count", lambda environment, backend: pytest.fail("asked"))
    assert main(["search", "small.yaml", "--workers", "3", "--set", "device=cpu"]) == 1
    assert main(["search", "small.yaml", "--out", "one"]) == 1
    assert [place.devices for place in places] == [(), ()]


def test_a_finished_search_is_shown_also_where_there_is_no_device(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Supervisor, "run", lambda self: drive(self.board._study))
    (two / "small.yaml").write_text(SPEC.replace("device: cpu", "device: cuda") + "  trials: 3\n")
    assert main(["search", "small.yaml", "--workers", "2"]) == 0
    monkeypatch.setattr(devices, "_count", lambda environment, backend: 0)
    for arguments in (["studies/small"], ["small.yaml"], ["small.yaml", "--trials", "3", "--workers", "9"]):
        assert main(["search", *arguments]) == 0
        assert "best trial:" in capsys.readouterr().out
    for what, where in (("studies/small", "device of the spec"), ("small.yaml", "small.yaml:4:9: device")):
        assert main(["search", what, "--trials", "4"]) == 2
        assert f"{where}: cuda, and torch sees no CUDA devices" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--worker", "--storage", "sqlite:///a.db"], [".", "--report"]])
def test_workers_per_device_is_refused_where_it_is_not_heeded(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *option, "--workers-per-device", "2"]) == 2
    assert "leave --workers-per-device out" in capsys.readouterr().err
    assert main(["search", "small.yaml", "--ray", "auto", "--workers-per-device", "2"]) == 2
    assert "--ray-gpus 0.5" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["1.5", "-1", "nan", "inf", "half"])
def test_ray_knows_shares_of_one_gpu_and_whole_ones(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["search", "small.yaml", "--ray", "auto", f"--ray-gpus={share}"])
    assert "a share from 0 to 1, or a whole number of GPUs" in capsys.readouterr().err


# -- a Ray cluster


@pytest.mark.parametrize(
    ("device", "asked", "workers", "total", "gpus", "notes"),
    [
        (None, None, 2, 4, 1, ["the cluster has 4 GPUs; each worker gets one (--ray-gpus 1)"]),
        ("cuda", None, 4, 4, 1, ["the cluster has 4 GPUs; each worker gets one (--ray-gpus 1)"]),
        (None, None, 2, 0, 0, ["the cluster has no GPUs: trials run on the CPU"]),
        ("cpu", None, 9, 4, 0, []),
        (None, 0, 2, 4, 0, ["the cluster has 4 GPUs and --ray-gpus 0 gives workers none: trials run on the CPU"]),
        ("cuda", 2, 9, 4, 2, []),  # more than fit: they wait, or the cluster grows
        ("cuda:1", 2, 1, 4, 2, []),
        ("cuda", 0.5, 2, 1, 0.5, ["--ray-gpus 0.5: times and speeds are those of a GPU that other workers may load"]),
        ("cpu", 1, 2, 4, 1, ["--ray-gpus 1: no trial uses a GPU, since all are on `device: cpu`"]),
    ],
)
def test_workers_on_ray_get_a_gpu_each_where_there_are_any(
    device: str | None, asked: float | None, workers: int, total: float, gpus: float, notes: list[str]
) -> None:
    share = gpu_share(search(device=device), asked, workers, total, total)
    assert share.gpus == gpus and list(share.notes) == notes


@pytest.mark.parametrize(
    ("device", "asked", "workers", "total", "largest", "message"),
    [
        ("cuda", None, 1, 0, 0, "small.yaml:4:9: device: cuda, and the cluster has no GPUs; use `auto` or `cpu`"),
        (
            "{choose: [cpu, cuda]}",
            0,
            1,
            4,
            4,
            "device: cuda, and with --ray-gpus 0 workers see none of 4 GPUs; leave --ray-gpus out",
        ),
        (
            None,
            None,
            16,
            4,
            2,
            "--workers 16: the cluster has 4 GPUs, one for each worker; use --workers 4, --ray-gpus 0.25 to let them "
            "share, or --ray-gpus 1 to let workers wait for one",
        ),
        (None, None, 5, 2, 2, "--ray-gpus 0.3333 to"),
        (None, 2, 1, 4, 1, "--ray-gpus 2: the largest node of the cluster has 1 GPU; use fewer"),
        ("cpu", 0.5, 1, 0, 0, "--ray-gpus 0.5: the cluster has no GPUs; leave it out"),
        (
            "cuda:1",
            None,
            1,
            4,
            4,
            "device: cuda:1, but a worker only sees the GPUs that it is given, numbered from 0; use",
        ),
    ],
)
def test_what_a_cluster_cannot_give_is_refused(
    device: str | None, asked: float | None, workers: int, total: float, largest: float, message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        gpu_share(search(device=device), asked, workers, total, largest)
    assert message in str(refused.value)


def test_what_is_timed_on_a_cluster_is_timed_alone_or_told() -> None:
    section = "constraints: [latency_ms <= 3]\nlatency: {device: DEVICE}"
    cuda = search(section=section.replace("DEVICE", "cuda"))
    with pytest.raises(UsageError, match=r"latency_ms would be timed on .* use --ray-gpus 1, or aim at macs"):
        gpu_share(cuda, 0.5, 2, 4, 4)
    assert len(gpu_share(cuda, None, 2, 4, 4).notes) == 1
    cpu = search(section=section.replace("DEVICE", "cpu"))
    assert "latency_ms is timed on the CPU while other workers load it" in gpu_share(cpu, None, 2, 4, 4).notes[-1]
    assert len(gpu_share(cpu, None, 1, 4, 4).notes) == 1


class FakeRay:
    """A cluster of two nodes that are up and one that is not; an actor is the object itself, made at once."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, *gpus: float) -> None:
        self.gpus = gpus
        self.reserved: list[dict[str, Any]] = []

    def nodes(self) -> list[dict[str, Any]]:
        lost = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": gpus}} for gpus in self.gpus] + [lost]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0 * len(self.gpus), **({"GPU": sum(self.gpus)} if sum(self.gpus) else {})}

    def remote(self, **options: Any) -> Any:
        self.reserved.append(options)
        return lambda kind: kind

    def shutdown(self) -> None:
        self.gpus = ()


def test_gpus_of_lost_nodes_do_not_count() -> None:
    assert gpus_of(FakeRay(1, 2)) == (3, 2) and gpus_of(FakeRay(0)) == (0, 0)


def test_the_command_reserves_gpus(
    two: Path, places: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nasir.search import ray_workers

    monkeypatch.setattr(devices, "_count", lambda environment, backend: pytest.fail("this machine does not matter"))
    ray = FakeRay(2)
    monkeypatch.setattr(ray_workers, "connect", lambda address: ray)
    assert main(["search", "small.yaml", "--ray", "auto", "--workers", "3"]) == 2
    assert "--workers 3: the cluster has 2 GPUs" in capsys.readouterr().err
    assert [path.name for path in two.iterdir()] == ["small.yaml"] and ray.gpus == ()
    monkeypatch.setattr(ray_workers, "connect", lambda address: FakeRay(2))
    assert main(["search", "small.yaml", "--ray", "auto", "--ray-cpus", "9"]) == 2
    assert "--ray-cpus 9: the largest node of the cluster has 8 cores" in capsys.readouterr().err
    monkeypatch.setattr(ray_workers, "connect", lambda address: FakeRay(1, 1))
    assert main(["search", "small.yaml", "--ray", "auto"]) == 2
    assert "study.db: an SQLite file works on one machine only, but the cluster has 2" in capsys.readouterr().err
    assert [path.name for path in two.iterdir()] == ["small.yaml"], "refused before anything is made"
    monkeypatch.setattr(ray_workers, "connect", lambda address: ray)
    for option, gpus, said in (([], 1, "each worker gets one"), (["--ray-gpus", "0"], 0, "run on the CPU")):
        ray = FakeRay(2)
        assert main(["search", "small.yaml", "--ray", "auto", "--workers", "2", *option]) == 1
        assert isinstance(places[-1], RayCluster) and ray.reserved[-1]["num_gpus"] == gpus
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("granted", [["GPU-b"], []])
def test_a_worker_on_ray_sees_what_ray_granted(
    granted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever Ray did about the variable itself: some versions and settings leave it as it is on the node."""
    context = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": granted, "TPU": []})
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    monkeypatch.setenv(VISIBLE, "GPU-a,GPU-b")
    keeper = Keeper(["-c", f"import os; print('sees', os.environ['{VISIBLE}'])"], {}, str(tmp_path), 1)
    code, said = keeper.wait()
    keeper.log.close()
    seen = ",".join(granted)
    assert code == 0 and said == f"  sees {seen}"
    assert keeper.log.path.read_text().splitlines()[0].endswith(f", {VISIBLE}={seen}")
