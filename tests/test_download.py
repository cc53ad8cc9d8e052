"""Downloads against a server of our own: resume, broken connections, checksums, room, unsafe archives, kills at any step."""

import hashlib
import io
import json
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from bench.datasets import download as downloads
from bench.datasets import open_split, parse_data
from bench.datasets.archives import DOWNLOADS, Archive, Download
from bench.datasets.download import download, get
from bench.types import UserError


class Server:
    """Serves `files` by path; `plan` is what the next requests do: "cut N" bytes, "status N", "whole" or "short N" (no ranges); then all is well."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.plan: list[str] = []
        self.ranges: list[str | None] = []  # asked for, one a request
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.ranges.append(asked)
        order = (self.plan.pop(0) if self.plan else "").partition(" ")
        content = self.files[handler.path]
        if order[0] == "status":
            handler.send_error(int(order[2]))
            return
        start = 0 if asked is None or order[0] in ("whole", "short") else int(asked.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        sent = content[start : start + int(order[2])] if order[0] in ("cut", "short") else content[start:]
        handler.wfile.write(sent)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def tar_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return stream.getvalue()


NOISE = hashlib.shake_256(b"noise").digest(300_000)
CONTENT = {"kit/set/a.bin": NOISE, "kit/set/deep/b.txt": b"b"}


def offer(server: Server, *contents: bytes, moves=(("kit/set", "set"),)) -> Download:
    """What is wanted, with these archives on the server."""
    made = []
    for at, content in enumerate(contents):
        server.files[f"/part{at}.tar"] = content
        made.append(Archive(f"{server.url}/part{at}.tar", len(content), f"sha256:{hashlib.sha256(content).hexdigest()}"))
    return Download(tuple(made), moves, 1.0, "train={folder}/set/train.json")


def fetch(wanted: Download, folder: Path) -> None:
    get(wanted, folder, pause=0.0)


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(folder: Path) -> set[str]:
    """Files in the folder, the lock left out."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_download_and_unpack(server, tmp_path):
    seen = []
    wanted = offer(server, tar_of(CONTENT), zip_of({"kit/set/c.txt": b"c", "kit/other.txt": b"left out"}))
    get(wanted, tmp_path, lambda *step: seen.append(step))
    assert (tmp_path / "set/a.bin").read_bytes() == NOISE
    assert left(tmp_path) == {"set/a.bin", "set/deep/b.txt", "set/c.txt"}
    assert {what for what, _, _ in seen} == {
        "part0.tar", "part1.tar", "check part0.tar", "check part1.tar", "unpack part0.tar", "unpack part1.tar",
    }  # fmt: skip
    assert all(0 <= done <= total for _, done, total in seen)
    assert {what for what, done, total in seen if done == total} == {what for what, _, _ in seen}  # each step reaches its end
    assert server.ranges == [None, None]
    fetch(wanted, tmp_path)  # it is there: nothing is asked for
    assert len(server.ranges) == 2


def test_a_connection_that_breaks_is_taken_up_again(server, tmp_path):
    content = tar_of(CONTENT)
    server.plan = ["cut 100000", "cut 0", "cut 50000"]
    fetch(offer(server, content), tmp_path)
    assert (tmp_path / "set/a.bin").read_bytes() == NOISE
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_what_came_is_kept_for_the_next_command(server, tmp_path):
    content = tar_of(CONTENT)
    wanted = offer(server, content)
    server.plan = ["cut 100000", *["cut 0"] * downloads.TRIES]
    text = message(fetch, wanted, tmp_path)
    assert f"100000 of {len(content)} bytes came" in text
    assert "run the same command again" in text
    assert (tmp_path / ".download/part0.tar.part").read_bytes() == content[:100_000]
    assert not (tmp_path / "set").exists()
    fetch(wanted, tmp_path)
    assert server.ranges[-1] == "bytes=100000-"
    assert (tmp_path / "set/a.bin").read_bytes() == NOISE


def test_a_server_without_ranges_sends_it_whole(server, tmp_path):
    server.plan = ["cut 100000", "whole"]
    fetch(offer(server, tar_of(CONTENT)), tmp_path)
    assert (tmp_path / "set/a.bin").read_bytes() == NOISE


def test_a_server_without_ranges_that_always_breaks_is_given_up(server, tmp_path):
    server.plan = ["cut 100000", *["short 90000"] * 20]
    assert "100000 of" in message(fetch, offer(server, tar_of(CONTENT)), tmp_path)
    assert len(server.ranges) == 1 + downloads.TRIES


@pytest.mark.parametrize(("status", "requests"), [(503, downloads.TRIES), (404, 1)])
def test_what_the_server_says_is_told(server, tmp_path, status, requests):
    server.plan = [f"status {status}"] * 20
    assert f"part0.tar: {'0 of' if requests > 1 else 'the server says'}" in message(fetch, offer(server, tar_of(CONTENT)), tmp_path)
    assert len(server.ranges) == requests


def test_no_server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x.tar"
        assert "Connection refused" in message(fetch, Download((Archive(url, 10, "md5:0"),), (("a", "b"),), 1.0, ""), tmp_path)


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_checksum_that_differs(server, tmp_path, algorithm):
    content = tar_of(CONTENT)
    right = offer(server, content)
    wanted = replace(right, archives=(replace(right.archives[0], checksum=f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"),))
    server.files["/part0.tar"] = content[:-1] + b"x"
    text = message(fetch, wanted, tmp_path)
    assert f"its {algorithm} is" in text
    assert wanted.archives[0].checksum.partition(":")[2] in text
    assert left(tmp_path) == set()
    server.files["/part0.tar"] = content
    fetch(wanted, tmp_path)
    assert (tmp_path / "set/a.bin").exists()


def test_room_is_checked_before_anything_is_asked_for(server, tmp_path):
    content = tar_of(CONTENT)
    wanted = replace(offer(server, content), unpacked=1e12)  # more than any disk
    text = message(fetch, wanted, tmp_path)
    assert "are needed" in text
    assert "make room or give another folder" in text
    assert server.ranges == []


def test_room_counts_what_is_there_already(server, tmp_path, monkeypatch):
    content = tar_of(CONTENT)
    wanted = offer(server, content)
    server.plan = ["cut 100000", *["cut 0"] * downloads.TRIES]
    message(fetch, wanted, tmp_path)
    need = 2 * len(content) - 100_000
    usage = shutil.disk_usage(tmp_path)._asdict()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {**usage, "free": need - 1}))
    assert "are needed" in message(fetch, wanted, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {**usage, "free": need}))
    fetch(wanted, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, which is always full, is Linux's")
def test_a_disk_that_fills_up(server, tmp_path):
    wanted = offer(server, tar_of(CONTENT))
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download/part0.tar.part").symlink_to("/dev/full")
    assert "the disk is full; make room and run the same command again" in message(fetch, wanted, tmp_path)
    assert not (tmp_path / "set").exists()


def test_an_unsafe_archive_puts_nothing_in_place(server, tmp_path):
    home = tmp_path / "one/two"
    text = message(fetch, offer(server, tar_of({"kit/set/a": b"1", "../evil": b"2"})), home)
    assert "part0.tar: entry '../evil' is a name that leads outside" in text
    assert left(tmp_path) == {"one/two/.download/part0.tar"}


def test_an_archive_without_what_it_should_hold(server, tmp_path):
    assert "the archives hold no kit/set" in message(fetch, offer(server, tar_of({"other/a": b"1"})), tmp_path)
    assert not (tmp_path / "set").exists()


def test_one_download_a_folder(server, tmp_path):
    wanted = offer(server, tar_of(CONTENT))
    with downloads._owned(tmp_path / ".download"):
        assert "another download into this folder is running" in message(fetch, wanted, tmp_path)
    fetch(wanted, tmp_path)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert "give a folder that you may write to" in message(fetch, offer(server, tar_of(CONTENT)), tmp_path / "file")


@pytest.mark.parametrize("step", ["part0.tar", "check part0.tar", "unpack part0.tar"])
def test_killed_at_any_step_it_goes_on(server, tmp_path, step):
    """kill -9 at the first word of a step; what is in place stays, nothing half unpacked shows, and the same command ends it."""
    wanted = offer(server, tar_of(CONTENT), tar_of({"kit/set/late.txt": b"late"}))
    code = f"""
import os, signal, sys
from pathlib import Path
from bench.datasets.archives import Archive, Download
from bench.datasets.download import get
get({wanted!r}, Path({str(tmp_path)!r}), lambda what, done, total: what == {step!r} and os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not (tmp_path / "set").exists()
    there = (tmp_path / ".download/part0.tar").exists()
    asked = len(server.ranges)
    fetch(wanted, tmp_path)
    assert left(tmp_path / "set") == {"a.bin", "deep/b.txt", "late.txt"}
    assert left(tmp_path / ".download") == set()
    assert server.ranges[asked:].count(None) == (0 if step == "unpack part0.tar" else 1)  # archives that had not begun to come
    assert there == (step == "unpack part0.tar")


def test_killed_between_two_renames_it_goes_on(server, tmp_path):
    wanted = offer(server, tar_of({"a/x": b"1", "b/y": b"2"}), moves=(("a", "set/a"), ("b", "set/b")))
    (tmp_path / "set/a").mkdir(parents=True)  # as the first rename left it
    (tmp_path / "set/a/x").write_bytes(b"1")
    fetch(wanted, tmp_path)
    assert left(tmp_path) == {"set/a/x", "set/b/y"}
    (tmp_path / ".download/part0.tar").write_bytes(b"what a kill after the last rename leaves")
    fetch(wanted, tmp_path)
    assert left(tmp_path) == {"set/a/x", "set/b/y"}


def png(size=(20, 10)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size).save(stream, "PNG")
    return stream.getvalue()


def local(server: Server, name: str, *contents: bytes) -> Download:
    """The table's entry of that name, its archives exchanged for small ones on the server."""
    made = []
    for archive, content in zip(DOWNLOADS[name].archives, contents, strict=True):
        server.files[f"/{archive.file}"] = content
        made.append(Archive(f"{server.url}/{archive.file}", len(content), f"md5:{hashlib.md5(content).hexdigest()}"))
    return replace(DOWNLOADS[name], archives=tuple(made))


def coco_json(stem: str) -> dict:
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}
    return {
        "images": [{"id": 1, "file_name": f"{stem}.png", "width": 20, "height": 10}],
        "annotations": [box],
        "categories": [{"id": 1, "name": "x"}],
    }


def test_downloaded_coco_opens_by_the_text_that_comes_back(server, tmp_path, monkeypatch):
    annotations = {f"annotations/instances_{split}2017.json": json.dumps(coco_json(split)).encode() for split in ("train", "val")}
    images = [zip_of({f"{split}2017/{split}.png": png()}) for split in ("val", "train")]
    wanted = local(server, "coco2017", zip_of(annotations), *images)
    monkeypatch.setattr(downloads, "DOWNLOADS", {"coco2017": wanted})
    data = parse_data(download("coco2017", tmp_path))
    for split in ("train", "val", "test"):
        assert open_split(data, split).image(0).shape == (3, 10, 20)


def test_downloaded_voc_years_stand_side_by_side(server, tmp_path, monkeypatch):
    xml = (
        "<annotation><size><width>20</width><height>10</height></size><object><name>dog</name>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
    )

    def year(folder: str, name: str, *sets: str) -> bytes:
        root = f"VOCdevkit/{folder}"
        members = {f"{root}/Annotations/{name}.xml": xml.encode(), f"{root}/JPEGImages/{name}.jpg": png()}
        return tar_of({**members, **{f"{root}/ImageSets/Main/{one}.txt": f"{name}\n".encode() for one in sets}})

    wanted = {
        "voc2007": local(server, "voc2007", year("VOC2007", "000001", "trainval", "val"), year("VOC2007", "000002", "test")),
        "voc2012": local(server, "voc2012", year("VOC2012", "2008_000001", "train", "val", "trainval")),
    }
    monkeypatch.setattr(downloads, "DOWNLOADS", wanted)
    texts = [download(name, tmp_path) for name in wanted]
    assert [[len(open_split(parse_data(text), split)) for split in ("train", "val", "test")] for text in texts] == [[1, 1, 1], [1, 1, 1]]
    both = parse_data(f"voc={tmp_path}")
    assert [len(open_split(both, split)) for split in ("train", "val", "test")] == [2, 1, 1]


def test_the_table_is_well_formed():
    lengths = {"md5": 32, "sha256": 64}
    for wanted in DOWNLOADS.values():
        assert parse_data(wanted.use.format(folder="F")).kind in ("voc", "coco")
        for archive in wanted.archives:
            algorithm, _, digest = archive.checksum.partition(":")
            assert len(bytes.fromhex(digest)) * 2 == lengths[algorithm]
            assert archive.size > 10**8
    assert "voc2007, voc2012, coco2017" in message(download, "imagenet", Path())
