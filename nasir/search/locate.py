"""Where a study lies: its folder, its database and its name, from what the user says and what the folder knows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nasir.errors import StudyError, UsageError
from nasir.files import json_value, read_bounded
from nasir.search.storage import open_storage
from nasir.search.study import Study
from nasir.search.urls import anchored, check_sqlite_exists, sqlite_url

__all__ = ["Whereabouts", "find", "given_storage", "only_study", "open_study"]

CARD = "study.json"
DATABASE = "study.db"


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """`known`: the folder belongs to the study already."""

    folder: Path
    url: str
    name: str
    known: bool


def read_card(folder: Path) -> dict[str, str] | None:
    """What `study.json` says: the name of the study, and its storage without a password; None where there is none."""
    path = folder / CARD
    try:
        card = json_value(read_bounded(path, 1 << 20))
        return {"study": str(card["study"]), "storage": str(card["storage"])}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f'{path}: cannot be read ({error}); write {{"study": NAME, "storage": URL}} into it') from None


def find(folder: Path, storage: str | None, name: str | None) -> Whereabouts:
    """The study of a folder. `storage` and `name`: as given by the user, who may leave them out for a known study.

    What a folder knows goes before NASIR_STORAGE, which is for new studies and for passwords that were not stored.
    Raises UsageError where the two do not go together, or a password is missing.
    """
    card = read_card(folder)
    own = sqlite_url(folder.resolve() / DATABASE)
    usual = given_storage(None)
    if card is None:
        if name is None:
            raise _nothing(folder, ", or a spec")
        return Whereabouts(folder, anchored(storage or usual or own), name, known=False)
    if name is not None and name != card["study"]:
        raise UsageError(f"{folder}: belongs to the study {card['study']!r}, not {name!r}; choose another --out")
    stored = card["storage"]
    if stored.startswith("sqlite") and stored.endswith(f"/{DATABASE}") and (folder / DATABASE).exists():
        stored = own  # wherever the folder has gone since
    secret = ":***@" in stored or "=***" in stored
    url = storage or (usual if secret else stored)
    if url is None:
        raise UsageError(
            f"{folder}: the password of {stored} is not stored; give the URL by --storage or NASIR_STORAGE"
        )
    return Whereabouts(folder, anchored(url), card["study"], known=True)


def given_storage(option: str | None) -> str | None:
    """The storage that the user names: by an option, or else by NASIR_STORAGE."""
    return option or os.environ.get("NASIR_STORAGE") or None


def _nothing(folder: Path, otherwise: str = "") -> UsageError:
    remedy = f"name a folder made by `nasir search`{otherwise}"
    return UsageError(f"{folder}: no search here ({CARD} is missing); {remedy}")


def only_study(url: str) -> str:
    """The name of the one study in a database; UsageError where there is none or more than one."""
    check_sqlite_exists(url)
    storage = open_storage(url)
    try:
        names = sorted(study.study_name for study in storage.get_all_studies())
    finally:
        storage.close()
    if len(names) != 1:
        remedy = (
            f"it has {', '.join(map(repr, names))}; choose one by --study"
            if names
            else "begin one with `nasir search SPEC`"
        )
        raise UsageError(f"{storage.place}: {'more than one study' if names else 'no study'}: {remedy}")
    return names[0]


def open_study(folder: Path, storage: str | None = None, name: str | None = None) -> Study:
    """The study of a folder, to be read only. `storage` and `name` as in `find`."""
    if read_card(folder) is None:
        raise _nothing(folder)
    where = find(folder, storage, name)
    return Study.open(where.url, where.name, where.folder, writes=False, patience=0)
