"""A study: its spec, its points and their attempts in a database that many processes of many machines share.

What may happen to a trial is decided by transactions of the storage on its state (WAITING, RUNNING, then COMPLETE,
PRUNED or FAIL for ever) and by the pure rules of `nasir.search.points`; every method may be killed at any moment and
run by any number of processes at once.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasir.errors import StudyError, UsageError
from nasir.files import write_atomically
from nasir.search.points import Ledger, attempt_of
from nasir.search.storage import PATIENCE, StudyStorage, open_storage
from nasir.search.urls import check_sqlite_exists
from nasir.spec.check_search import LARGEST_GRID
from nasir.spec.choices import Value
from nasir.spec.search import SearchSpec, loads_search
from nasir.version import VERSION

__all__ = ["Study"]

WARMUP = "nasir:ema_warmup"  # attribute of studies whose specs mean averages with a warm-up where they say nothing
SETTLING = 10.0  # seconds without progress after which the process that made a study is taken for dead
NOT_COPIED = ("constraints", "completed_rung_")  # system attributes that say how far an attempt came


class Study:
    """An open study. `folder` holds the run directories; `optuna` is what Optuna's own tools work on."""

    def __init__(self, spec: SearchSpec, folder: Path, storage: StudyStorage, optuna_study: optuna.Study) -> None:
        self.spec = spec
        self.folder = folder
        self.storage = storage
        self.optuna = optuna_study

    @property
    def name(self) -> str:
        return self.optuna.study_name

    # -- making and opening

    @classmethod
    def create(
        cls,
        spec: SearchSpec,
        url: str,
        name: str,
        folder: Path,
        trials: int | None = None,
        *,
        patience: float = PATIENCE,
        say: Callable[[str], None] = lambda text: None,
    ) -> Study:
        """Make a study, or go on with one made from an equal spec; several processes may do so at once.

        `trials`: points to have in all (default: as the spec says); a study never loses points. Raises StudyError
        where a study of that name was made from another spec, with every difference.
        """
        heartbeat = spec.search.heartbeat
        storage = open_storage(url, (heartbeat.interval, heartbeat.grace), patience=patience, say=say)
        try:
            cls._check_folder(storage, name, folder)
            directions = [StudyDirection[objective.direction.upper()] for objective in spec.search.objectives]
            try:
                storage.create_new_study(directions, name)
                ours = True
            except DuplicatedStudyError:
                ours = False
            optuna_study = optuna.load_study(study_name=name, storage=storage)
            study = cls(spec, folder, storage, optuna_study)
            described = "nasir:spec" in optuna_study.user_attrs  # the last to be written
            if ours or not (study._made_by_another() or described):
                study._check_directions(directions)
                study._describe()
            else:
                study._join()
            study.add_points(spec.trials if trials is None else trials)
            study._write_card()
        except BaseException:
            storage.close()
            raise
        return study

    @classmethod
    def open(
        cls,
        url: str,
        name: str,
        folder: Path,
        *,
        writes: bool = True,
        patience: float = PATIENCE,
        say: Callable[[str], None] = lambda text: None,
    ) -> Study:
        """A study that exists, with the spec it keeps. `writes`: False to read only, such as for a report.

        Raises StudyError where there is none of that name.
        """
        check_sqlite_exists(url)
        storage = open_storage(url, (60, 300) if writes else None, patience=patience, say=say)
        try:
            try:
                optuna_study = optuna.load_study(study_name=name, storage=storage)
            except KeyError:
                names = [summary.study_name for summary in storage.get_all_studies()]
                known = f"it has {', '.join(map(repr, names))}" if names else "it has none"
                raise StudyError(f"{storage.place}: no study {name!r}; {known}") from None
            study = cls._of(optuna_study, folder, storage)
        except BaseException:
            storage.close()
            raise
        storage.set_heartbeat(study.spec.search.heartbeat.interval, study.spec.search.heartbeat.grace)
        return study

    @classmethod
    def _of(cls, optuna_study: optuna.Study, folder: Path, storage: StudyStorage) -> Study:
        attrs = optuna_study.user_attrs
        if "nasir:spec" not in attrs:
            raise StudyError(
                f"{storage.place}: study {optuna_study.study_name!r} was not made by nasir; give another --study"
            )
        spec = loads_search(attrs["nasir:spec"], attrs["nasir:source"])
        return cls(spec if WARMUP in attrs else spec.of_the_past(), folder, storage, optuna_study)

    @staticmethod
    def _check_folder(storage: StudyStorage, name: str, folder: Path) -> None:
        """The runs of a new study must not get among those of another one."""
        if any(study.study_name == name for study in storage.get_all_studies()):
            return
        trials = folder / "trials"
        if trials.is_dir() and any(trials.iterdir()):
            raise StudyError(
                f"{folder}: holds trials of another study, which {storage.place} does not have; choose another --out"
            )

    def _made_by_another(self) -> bool:
        """Wait for the process that makes this study; False if it died over it."""
        seen, since = -1, time.monotonic()
        while "nasir:points" not in self.optuna.user_attrs:
            trials = self.trials()
            if any("point" not in trial.user_attrs for trial in trials):
                raise StudyError(
                    f"{self.storage.place}: study {self.name!r} was not made by nasir; give another --study"
                )
            if len(trials) > seen:
                seen, since = len(trials), time.monotonic()
            if time.monotonic() - since > SETTLING:
                return False
            time.sleep(0.2)
        return True

    def _check_directions(self, wanted: Sequence[StudyDirection]) -> None:
        """Those of a study can never be changed, and its maker may have died before it said anything else."""
        if list(self.optuna.directions) != list(wanted):
            ways = ", ".join(direction.name.lower() for direction in self.optuna.directions)
            raise StudyError(
                f"{self.storage.place}: study {self.name!r} was started with other objectives ({ways}); give another "
                "--study name or --out folder"
            )

    def _describe(self) -> None:
        spec = self.spec
        about: dict[str, Any] = {
            "nasir:source": str(spec.source),
            "nasir:base": str(spec.base_folder),
            "nasir:space": spec.space.describe(),
            "nasir:objectives": [
                {"metric": objective.metric, "direction": objective.direction} for objective in spec.search.objectives
            ],
            "nasir:version": VERSION,
            "nasir:search": spec.search.plain(),
            WARMUP: True,
            "nasir:spec": spec.to_text(),
        }
        for key, value in about.items():
            self.optuna.set_user_attr(key, value)

    def _join(self) -> None:
        """Go on with a study of an equal spec; what may change, such as the sampler, is taken from the new one."""
        before = Study._of(self.optuna, self.folder, self.storage).spec
        if before.past:
            self.spec = self.spec.of_the_past()
        changes = self.spec.difference(before)
        if changes:
            lines = "".join(f"\n  {change}" for change in changes)
            raise StudyError(
                f"{self.storage.place}: study {self.name!r} was made from another spec, and its trials would not "
                f"compare with new ones:{lines}\ngive another --study name or --out folder, or go back to that spec"
            )
        if self.spec.to_text() != before.to_text():
            self.optuna.set_user_attr("nasir:search", self.spec.search.plain())
            self.optuna.set_user_attr("nasir:spec", self.spec.to_text())

    def _write_card(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        card = {"study": self.name, "storage": self.storage.place}
        write_atomically(self.folder / "study.json", json.dumps(card, indent=2).encode() + b"\n")

    # -- reading

    def trials(self) -> list[FrozenTrial]:
        """All trials as they are now; not to be changed."""
        return self.storage.get_all_trials(self.optuna._study_id, deepcopy=False)

    def points(self) -> Ledger:
        """What the trials say about the points."""
        return Ledger(self.trials(), self.spec.search.retries)

    def directory(self, trial: FrozenTrial) -> Path:
        """Where an attempt runs: never where another one did, which may be alive after all."""
        return self.folder / "trials" / f"{trial.user_attrs['point']:04d}-a{attempt_of(trial)}"

    # -- points

    def add_points(self, total: int) -> None:
        """Make the points 0 .. total-1 that are missing; there may be more."""
        wanted = list(enumerate(islice(self._fixed(), total)))
        tickets = {point: _ticket(point, 0, {"fixed_params": fixed} if fixed else {}) for point, fixed in wanted}
        self.storage.put_points(self.optuna._study_id, tickets)
        before = self.optuna.user_attrs.get("nasir:points", 0)
        if before < len(wanted):
            self.optuna.set_user_attr("nasir:points", len(wanted))

    def _fixed(self) -> Iterator[Mapping[str, Value]]:
        """What each point is to try: the defaults first, then what the sampler suggests; of a grid, its points."""
        if self.spec.search.sampler.kind == "grid":
            size = self.spec.space.size()
            if size is None or size > LARGEST_GRID:
                many = "infinitely many" if size is None else f"{size}"
                raise UsageError(f"search.sampler: grid: the space has {many} points; use another sampler")
            points = sorted(self.spec.space.points(), key=lambda point: sorted(map(repr, point.items())))
            # the first ones are a fair sample of all; the order is one of the space alone: `search.seed` and the order
            # of keys in a spec may change before further points are added
            random.Random(self.spec.space.digest).shuffle(points)
            yield from points
            return
        yield self.spec.space.defaults()
        while True:
            yield {}

    # -- attempts

    def claim(self, worker: str, ledger: Ledger) -> FrozenTrial | None:
        """Make the next waiting attempt ours, as RUNNING by `worker`; None where there is none.

        The rules of a ledger decide which attempts may run; they stay true of what waits, however old it is.
        """
        for trial in ledger.queue():
            number = trial._trial_id
            try:
                self.storage.record_heartbeat(number)  # first: a running trial without any would never go stale
                if not self.storage.set_trial_state_values(number, TrialState.RUNNING):
                    continue
                self.storage.set_trial_user_attrs(number, self._claimed(trial, worker))
            except UpdateFinishedTrialError:
                continue  # found to be surplus meanwhile
            return self.storage.get_trial(number)
        return None

    def _claimed(self, trial: FrozenTrial, worker: str) -> dict[str, Any]:
        return {
            "worker": worker,
            "machine": socket.gethostname(),
            "origin": trial.user_attrs.get("origin", trial.number),
            "run": str(self.directory(trial).relative_to(self.folder)),
        }

    def reap(self, worker: str) -> int:
        """Give up the running attempts of a worker that is known to be dead; how many there were."""
        return sum(
            self.lose(trial, "its worker died")
            for trial in self.trials()
            if trial.state == TrialState.RUNNING and trial.user_attrs.get("worker") == worker
        )

    def reap_stale(self) -> int:
        """Give up running attempts without a sign of life for longer than the grace period; how many there were."""
        since = self.storage.recovered
        if since is not None and time.monotonic() - since < 2 * self.spec.search.heartbeat.interval:
            return 0  # after an outage everybody was silent; let them speak first
        stale = set(self.storage.stale(self.optuna._study_id))
        grace = self.spec.search.heartbeat.grace
        return sum(
            self.lose(trial, f"no sign of life for {grace} s")
            for trial in (self.trials() if stale else ())
            if trial._trial_id in stale and trial.state == TrialState.RUNNING
        )

    def lose(self, trial: FrozenTrial, reason: str) -> bool:
        """Give up a running attempt whose worker is dead; False where it has ended otherwise."""
        attrs: dict[str, Any] = {"lost": reason}
        if "preempted" not in trial.user_attrs and self.points().last_chance(trial):
            attrs["error"] = f"{reason}; {self.spec.search.retries + 1} workers were lost over this point"
        return self.fail(trial._trial_id, attrs)

    def fail(self, trial_id: int, attrs: Mapping[str, Any]) -> bool:
        """End an attempt as FAIL; False where it has ended otherwise."""
        try:
            self.storage.set_trial_user_attrs(trial_id, attrs)
            return bool(self.storage.set_trial_state_values(trial_id, TrialState.FAIL))
        except UpdateFinishedTrialError:
            return False

    def repair(self, ledger: Ledger) -> bool:
        """Clone lost attempts and take surplus ones out of the queue; whether there were any."""
        surplus, orphans = ledger.surplus(), ledger.orphans()
        for trial in surplus:
            self.fail(trial._trial_id, {"duplicate": True})
        for trial in orphans:
            kept = {key: value for key, value in trial.system_attrs.items() if not key.startswith(NOT_COPIED)}
            self.optuna.add_trial(_ticket(trial.user_attrs["point"], attempt_of(trial) + 1, kept, trial))
        return bool(surplus or orphans)

    def close(self) -> None:
        """Give the connections back."""
        self.storage.close()


def _ticket(point: int, attempt: int, system: Mapping[str, Any], before: FrozenTrial | None = None) -> FrozenTrial:
    """A waiting attempt; after the attempt `before`, with the choices of that."""
    attrs: dict[str, Any] = {"point": point, "attempt": attempt}
    if before is not None:
        attrs["origin"] = before.user_attrs.get("origin", before.number)
    return create_trial(
        state=TrialState.WAITING,
        params=None if before is None else before.params,
        distributions=None if before is None else before.distributions,
        user_attrs=attrs,
        system_attrs=dict(system),
    )
