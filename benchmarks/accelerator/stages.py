"""The stages in the order they run: cheap and important ones first. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """`run(bench)` of `module`, called with `options`, in a process of its own for at most `limit` seconds."""

    name: str
    module: str
    limit: float
    about: str
    options: tuple[str, ...] = ()


STAGES = (
    Stage("environment", "environment", 40, "device, driver, versions, bf16, what is not installed, two ceilings"),
    Stage("tests", "tests", 150, "`python -m pytest -m cuda`"),
    Stage("speed-eager", "speed", 90, "training against a hand-written loop, epochs by turns", ("eager",)),
    Stage("growth-eager", "growth", 40, "a growth step while training", ("eager",)),
    Stage("checkpoints", "checkpoints", 45, "how long `save` holds up training"),
    Stage("memory", "memory", 45, "peak memory of rewrites, and what they leave behind"),
    Stage("graphs", "graphs", 60, "a training step captured as a CUDA graph, against the eager one"),
    Stage("images", "images", 120, "the CIFAR-10 images: seconds before the first step, images a second"),
    Stage("autogrow", "autogrow", 120, "a short p-AutoGrow run on the CIFAR-10 images"),
    Stage("growth-compiled", "growth", 90, "a growth step of compiled blocks", ("compiled",)),
    Stage("speed-compiled", "speed", 180, "the same of compiled networks", ("compiled",)),
)
BY_NAME = {stage.name: stage for stage in STAGES}
