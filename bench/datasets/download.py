"""Get a dataset: download with resume, check, unpack, and rename into place as the last step. Standard library only.

What was downloaded stays in FOLDER/.download until the dataset is in place, so that a broken connection, a full disk or a kill costs only the step
in which it came; the same command goes on from there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.client import HTTPException
from typing import TYPE_CHECKING

from bench.datasets.archives import DOWNLOADS, unpack
from bench.types import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse
    from pathlib import Path

    from bench.datasets.archives import Archive, Download, Progress

CHUNK = 1 << 20
TRIES = 5  # connections that bring nothing new, one after the other
TIMEOUT = 60.0  # seconds without a byte


def download(name: str, folder: Path, progress: Progress = lambda *_: None) -> str:
    """Put the dataset of that name into the folder and return the text for --data; at once where it is there already.

    UserError for an unknown name, too little room, no connection, a checksum that differs, an unsafe archive.
    """
    if name not in DOWNLOADS:
        raise UserError(f"{name!r}: no such dataset to download; allowed are {', '.join(DOWNLOADS)}")
    get(DOWNLOADS[name], folder, progress)
    return DOWNLOADS[name].use.format(folder=folder)


def get(wanted: Download, folder: Path, progress: Progress = lambda *_: None, *, pause: float = 1.0) -> None:
    """Bring what is wanted into the folder; `pause` is the wait in seconds before the second try of a connection, doubled with each."""
    store = folder / ".download"
    if all((folder / target).exists() for _, target in wanted.moves):
        _discard(wanted, store)  # what a kill right after the last rename left
        return
    with _owned(store), _full_disk(folder):
        _check_room(wanted, folder, store)
        for archive in wanted.archives:
            _fetch(archive, store, progress, pause)
        fresh = store / "unpacked"
        shutil.rmtree(fresh, ignore_errors=True)
        for archive in wanted.archives:
            unpack(store / archive.file, fresh, room=shutil.disk_usage(folder).free, progress=progress)
        _place(wanted, fresh, folder)
        _discard(wanted, store)


def _discard(wanted: Download, store: Path) -> None:
    for archive in wanted.archives:
        (store / archive.file).unlink(missing_ok=True)


@contextmanager
def _owned(store: Path) -> Iterator[None]:
    """One download a folder at a time; the lock goes with the process, so that a kill leaves none."""
    import fcntl

    try:
        store.mkdir(parents=True, exist_ok=True)
        stream = (store / "lock").open("w")
    except OSError as error:
        raise UserError(f"{store}: cannot be written ({error.strerror}); give a folder that you may write to") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{store}: another download into this folder is running; wait for it or give another folder") from error
        yield


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{folder}: the disk is full; make room and run the same command again, what was downloaded is kept") from error


def _check_room(wanted: Download, folder: Path, store: Path) -> None:
    """What is still to come and to be unpacked must fit before anything begins."""
    total = sum(archive.size for archive in wanted.archives)
    there = sum(path.stat().st_size for archive in wanted.archives for path in (store / archive.file, _partial(store, archive)) if path.exists())
    need = max(total - there, 0) + round(total * wanted.unpacked)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(f"{folder}: {need / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free; make room or give another folder")


def _partial(store: Path, archive: Archive) -> Path:
    return store / f"{archive.file}.part"


def _fetch(archive: Archive, store: Path, progress: Progress, pause: float) -> None:
    """The whole archive, checked, at store/<its name>; goes on where an earlier try ended."""
    if (store / archive.file).exists():  # renamed only once it was whole and checked
        return
    partial = _partial(store, archive)
    failures, best = 0, _length(partial)
    while _length(partial) < archive.size:
        reason = _attempt(archive, partial, progress)
        failures = 0 if _length(partial) > best else failures + 1
        best = max(best, _length(partial))
        if failures == TRIES:
            raise UserError(f"{archive.url}: {best} of {archive.size} bytes came, then {reason}; run the same command again, it goes on from there")
        time.sleep(pause * (2**failures - 1))
    _accept(archive, partial, store / archive.file, progress)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _attempt(archive: Archive, partial: Path, progress: Progress) -> str:
    """One connection, and why it brought no more; UserError where another could bring nothing either."""
    try:
        _continue(archive, partial, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 500 and error.code not in (408, 429):
            raise UserError(
                f"{archive.url}: the server says {error.code} {error.reason}; see whether the publisher moved or changed the file"
            ) from error
        return f"the server says {error.code} {error.reason}"
    except (HTTPException, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return " ".join(str(error).split()) or type(error).__name__
    return "the server ended early"


def _continue(archive: Archive, partial: Path, progress: Progress) -> None:
    """One connection: append what comes, from where the file ends; from its start if the server knows no ranges."""
    start = _length(partial)
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(archive.url, headers={"User-Agent": "leandet", **headers})  # noqa: S310 - the addresses are ours, all http
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
        append = start > 0 and _begins_at(response, start)
        done = start if append else 0
        with partial.open("ab" if append else "wb") as stream:
            while done < archive.size and (chunk := response.read1(CHUNK)):
                stream.write(chunk[: archive.size - done])
                stream.flush()  # so that a kill loses nothing that came
                done = min(done + len(chunk), archive.size)
                progress(archive.file, done, archive.size)


def _begins_at(response: HTTPResponse, start: int) -> bool:
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _accept(archive: Archive, partial: Path, path: Path, progress: Progress) -> None:
    """Rename the file to its own name if its checksum is right; else delete it, so that the next try begins anew."""
    algorithm, _, expected = archive.checksum.partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with partial.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            progress(f"check {archive.file}", stream.tell(), archive.size)
        os.fsync(stream.fileno())
    if digest.hexdigest() != expected:
        partial.unlink()
        raise UserError(
            f"{archive.url}: its {algorithm} is {digest.hexdigest()}, {expected} is expected; the file was deleted: run the same command again, "
            "or see whether a proxy changes downloads"
        )
    partial.replace(path)


def _place(wanted: Download, fresh: Path, folder: Path) -> None:
    """Rename each part to its place; one that is there from a try that was killed in between stays."""
    for source, target in wanted.moves:
        if (folder / target).exists():
            continue
        if not (fresh / source).exists():
            raise UserError(f"{fresh}: the archives hold no {source}; the publisher changed them, so put the dataset into {folder} by hand")
    for source, target in wanted.moves:
        if not (folder / target).exists():
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            (fresh / source).rename(folder / target)
    shutil.rmtree(fresh)
