"""Files of results: written whole or not at all, by one process at a time, never trusted blindly.

A file is a netCDF whose attributes say what it holds and where every number comes from. One that is
damaged, or holds something else than its name says, is set aside under another name, loudly.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr
from filelock import FileLock, Timeout

__all__ = ["only_writer", "read", "set_aside", "write"]

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
    aside = path.with_suffix(f".set-aside-{datetime.datetime.now():%Y%m%d-%H%M%S}")
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
    scratch.replace(path)
