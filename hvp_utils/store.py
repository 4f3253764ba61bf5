"""Files of results: written whole or not at all, by one process at a time, never trusted blindly.

A file is a netCDF whose attributes say what it holds and where every number comes from. One that is
damaged, or holds something else than its name says, is set aside under another name, loudly.

What takes long is kept part by part in a hidden folder beside its file, and put into the file when
it is complete or interrupted; so a file is not written again for each part. What a killed process
leaves there is found by the next one that fills the file.
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr
from filelock import FileLock, Timeout

__all__ = ["add_part", "drop_parts", "only_writer", "parts", "read", "set_aside", "write"]

_log = logging.getLogger(__name__)


def read(path: Path | None, identity: Mapping[str, Any]) -> xr.Dataset | None:
    """What the store holds, or None; a file that is damaged or not ours is set aside, loudly."""
    if path is None or not path.exists():
        return None
    try:
        with xr.open_dataset(path, engine="h5netcdf") as file:
            # Without its encoding, which would cut longer texts that join later to its width.
            done = file.load().drop_encoding()
    except Exception as error:  # damaged files raise whatever their bytes happen to lead to
        set_aside(path, f"it cannot be read ({type(error).__name__}: {error})")
        return None
    for key, value in identity.items():
        if done.attrs.get(key) != value:
            set_aside(path, f"its {key} is {done.attrs.get(key)}, not {value}")
            return None
    return done


@contextmanager
def only_writer(path: Path | None) -> Iterator[None]:
    """Hold a file against other processes; the system lets go of it when this one dies."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("Another process is filling %s: waiting for it to finish.", path.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def set_aside(path: Path | None, reason: str) -> None:
    """Give a file another name, and say so."""
    if path is None:
        return
    aside = path.with_suffix(f".set-aside-{datetime.datetime.now():%Y%m%d-%H%M%S-%f}")
    path.rename(aside)
    _log.warning(
        "%s was not used: %s. It was renamed to %s; its numbers are computed again.",
        path.name,
        reason,
        aside.name,
    )


def write(done: xr.Dataset, path: Path) -> None:
    """Write a file, or leave the old one as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its place and renamed: a reader sees the old file or the new one, whole.
    scratch = path.with_suffix(".writing")
    numeric = [name for name in done.data_vars if done[name].dtype.kind == "f"]
    done.to_netcdf(scratch, engine="h5netcdf", encoding={name: {"zlib": True} for name in numeric})
    with scratch.open("rb+") as file:  # on the disk before the name is, and before parts go
        os.fsync(file.fileno())
    scratch.replace(path)


def add_part(part: xr.Dataset, path: Path, number: int) -> None:
    """Keep a part of what a file will hold, whole or not at all. Parts are numbered in order."""
    write(part, _parts_folder(path) / f"{number:06}.nc")


def parts(path: Path | None, identity: Mapping[str, Any]) -> list[xr.Dataset]:
    """The parts that are not in the file yet, in order; damaged ones are set aside, loudly."""
    if path is None:
        return []
    found = (read(file, identity) for file in sorted(_parts_folder(path).glob("*.nc")))
    return [part for part in found if part is not None]


def drop_parts(path: Path) -> None:
    """Remove the parts of a file. They must be in it, since nothing else holds them."""
    folder = _parts_folder(path)
    if folder.exists():
        for file in [*folder.glob("*.nc"), *folder.glob("*.writing")]:
            file.unlink()
        if not any(folder.iterdir()):  # what was set aside stays
            folder.rmdir()


def _parts_folder(path: Path) -> Path:
    return path.with_name(f".{path.name}.parts")
