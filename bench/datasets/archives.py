"""What can be downloaded, as data: addresses, sizes in bytes, checksums, and where what is unpacked goes. And the safe unpacking of an archive.

The MD5 sums of VOC are those that torchvision checks. COCO publishes none; sizes and SHA-256 sums are those that TensorFlow Datasets recorded
(tensorflow_datasets/url_checksums/coco.txt), its sizes of VOC's archives too.
"""

from __future__ import annotations

import errno
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, NamedTuple

from bench.types import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Progress = Callable[[str, int, int], None]  # (what is done, bytes done, bytes in all)


@dataclass(frozen=True)
class Archive:
    """One file to download: `size` in bytes; `checksum` as "md5:..." or "sha256:..."."""

    url: str
    size: int
    checksum: str

    @property
    def file(self) -> str:
        """The name it is stored under."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Download:
    """A dataset's archives, and what of their content is moved where: pairs of paths, relative to what is unpacked and to the user's folder."""

    archives: tuple[Archive, ...]
    moves: tuple[tuple[str, str], ...]
    unpacked: float  # bytes after unpacking for one byte of archive, about
    use: str  # what --data is then given; {folder} stands for the user's folder


_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
_COCO = "http://images.cocodataset.org"
DOWNLOADS: Mapping[str, Download] = MappingProxyType(
    {
        "voc2007": Download(
            archives=(
                Archive(f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar", 460_032_000, "md5:c52e279531787c972589f7e41ab4ae64"),
                Archive(f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar", 451_020_800, "md5:b6e924de25625d8de591ea690078ad9f"),
            ),
            moves=(("VOCdevkit/VOC2007", "VOC2007"),),
            unpacked=1.0,
            use="voc={folder},train=2007_trainval",
        ),
        "voc2012": Download(
            archives=(Archive(f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar", 1_999_639_040, "md5:6cd6e144f989b92b3379bac3b3de84fd"),),
            moves=(("VOCdevkit/VOC2012", "VOC2012"),),
            unpacked=1.0,
            use="voc={folder},train=2012_train,val=2012_val,test=2012_val",
        ),
        "coco2017": Download(
            archives=(
                Archive(
                    f"{_COCO}/annotations/annotations_trainval2017.zip",
                    252_907_541,
                    "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
                ),
                Archive(f"{_COCO}/zips/val2017.zip", 815_585_330, "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
                Archive(f"{_COCO}/zips/train2017.zip", 19_336_861_798, "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"),
            ),
            moves=(  # to where the COCO reader looks for images by itself; the JSON last, so that it never stands without its images
                ("train2017", "coco2017/images/instances_train2017"),
                ("val2017", "coco2017/images/instances_val2017"),
                ("annotations/instances_train2017.json", "coco2017/instances_train2017.json"),
                ("annotations/instances_val2017.json", "coco2017/instances_val2017.json"),
            ),
            unpacked=1.05,
            use="train={folder}/coco2017/instances_train2017.json,val={folder}/coco2017/instances_val2017.json,"
            "test={folder}/coco2017/instances_val2017.json,empty=drop",
        ),
    }
)


class Member(NamedTuple):
    """One entry of an archive; `kind` is "file", "folder", or what else it is."""

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, *, room: int, progress: Progress = lambda *_: None) -> None:
    """Unpack a tar or a zip into a new folder, or one that holds the files of other archives; UserError for an unsafe or a broken archive.

    Only files and folders inside `folder` are made: an absolute name, a name with "..", a link, a device, a name twice, or more than `room` bytes
    stop it. All members are looked at before the first is written.
    """
    try:
        with tarfile.open(archive) if tarfile.is_tarfile(archive) else zipfile.ZipFile(archive) as opened:
            members = list(_tar_members(opened) if isinstance(opened, tarfile.TarFile) else _zip_members(opened))
            for member in members:
                _check(archive, member)
            need = sum(member.size for member in members)
            if need > room:
                raise UserError(
                    f"{archive}: unpacking needs {need / 1e9:.2f} GB, {room / 1e9:.2f} GB are free; make room and run the same command again"
                )
            done = 0
            for member in members:
                _write(folder, member)
                done += member.size
                progress(f"unpack {archive.name}", done, need)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the archive is not to blame
        raise UserError(
            f"{archive}: broken or not an archive that is allowed here ({error}); allowed are tar and zip; delete it and download it anew"
        ) from error


def _tar_members(opened: tarfile.TarFile) -> Iterator[Member]:
    for info in opened:
        kind = "folder" if info.isdir() else "file" if info.isreg() else "link" if info.issym() or info.islnk() else "device"
        yield Member(info.name, kind, info.size if kind == "file" else 0, lambda info=info: opened.extractfile(info))  # type: ignore[misc]  # bound now


def _zip_members(opened: zipfile.ZipFile) -> Iterator[Member]:
    for info in opened.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        plain = "folder" if info.is_dir() else "file"
        kind = plain if mode in (0, stat.S_IFREG, stat.S_IFDIR) else "link" if mode == stat.S_IFLNK else "device"
        yield Member(info.orig_filename, kind, info.file_size, lambda info=info: opened.open(info))  # type: ignore[misc]  # bound now


def _check(archive: Path, member: Member) -> None:
    path = PurePosixPath(member.name)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name or ":" in member.name
    if outside or member.kind not in ("file", "folder"):
        what = "a name that leads outside" if outside else f"a {member.kind}"
        raise UserError(
            f"{archive}: entry {member.name!r} is {what}; allowed are files and folders inside; nothing was unpacked, so get it from its own source"
        )


def _write(folder: Path, member: Member) -> None:
    path = folder / member.name
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    if source is None:
        raise EOFError(f"{member.name} has no content")
    with source, path.open("xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    if path.stat().st_size != member.size:
        raise EOFError(f"{member.name} is cut off")
