"""Unpacking: what is unsafe or broken is refused with the name of its entry, and nothing is written."""

import hashlib
import io
import stat
import tarfile
import zipfile

import pytest

from bench.datasets.archives import unpack
from bench.types import UserError


def tar_of(members: dict[str, bytes], *special: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
        for info in special:
            opened.addfile(info)
    return stream.getvalue()


def zip_of(members: dict[str | zipfile.ZipInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return stream.getvalue()


NOISE = hashlib.shake_256(b"noise").digest(300_000)
CONTENT = {"kit/set/a.bin": NOISE, "kit/set/deep/b.txt": b"b"}


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


UNSAFE = {
    "tar, parent": tar_of({"kit/set/a": b"1", "../evil": b"2"}),
    "tar, deep parent": tar_of({"kit/set/../../../evil": b"2"}),
    "tar, absolute": tar_of({"/tmp/evil": b"2"}),
    "tar, backslash": tar_of({"..\\evil": b"2"}),
    "tar, symbolic link": tar_of({}, special("kit/set", tarfile.SYMTYPE, "/tmp")),
    "tar, link inside": tar_of({}, special("kit/set/a", tarfile.SYMTYPE, "b")),
    "tar, hard link": tar_of({}, special("kit/set/a", tarfile.LNKTYPE, "../../../etc/passwd")),
    "tar, device": tar_of({}, special("kit/set/a", tarfile.CHRTYPE)),
    "tar, pipe": tar_of({}, special("kit/set/a", tarfile.FIFOTYPE)),
    "zip, parent": zip_of({"kit/set/a": b"1", "../evil": b"2"}),
    "zip, absolute": zip_of({"/tmp/evil": b"2"}),
    "zip, drive": zip_of({"c:evil": b"2"}),
    "zip, link": zip_of({zip_link("kit/set/a"): b"/etc/passwd"}),
}


@pytest.mark.parametrize("content", UNSAFE.values(), ids=UNSAFE)
def test_unsafe_archives_write_nothing(tmp_path, content):
    archive = tmp_path / "x.tar"
    archive.write_bytes(content)
    text = message(lambda: unpack(archive, tmp_path / "one/two", room=10**9))
    assert text.startswith(f"{archive}: entry '")
    assert "nothing was unpacked" in text
    assert [path.name for path in tmp_path.rglob("*")] == ["x.tar"]


BROKEN = {
    "no archive": b"hello" * 1000,
    "empty": b"",
    "tar cut off": tar_of(CONTENT)[:200_000],
    "zip cut off": zip_of({"kit/set/a": NOISE})[:200_000],
    "zip with a wrong byte": zip_of({"kit/set/a": NOISE}).replace(NOISE[1000:1010], b"0123456789"),
    "tar, a name twice": tar_of({"kit/set/a": b"1"})[:1024] + tar_of({"kit/set/a": b"2"}),
    "tar, a file as a folder": tar_of({"kit/set": b"1", "kit/set/a": b"2"}),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_archives_are_named(tmp_path, content):
    archive = tmp_path / "x.tar"
    archive.write_bytes(content)
    assert "x.tar: broken or not an archive" in message(lambda: unpack(archive, tmp_path / "out", room=10**9))


def test_no_more_than_the_room_is_unpacked(tmp_path):
    archive = tmp_path / "x.tar"
    archive.write_bytes(tar_of(CONTENT))
    assert "unpacking needs" in message(lambda: unpack(archive, tmp_path / "out", room=300_000))  # 300,001 bytes are in it
    assert not (tmp_path / "out").exists()
    unpack(archive, tmp_path / "out", room=300_001)
    assert (tmp_path / "out/kit/set/a.bin").read_bytes() == NOISE
