"""The other end of a measuring process: asks over pipes, waits only so long, and knows its last words when it dies. No torch."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import places
from bench.types import UserError

if TYPE_CHECKING:
    from bench.subjects import Conditions, Subject

PATIENCE_S = 600.0  # for one answer
LINES = 3  # of its last words


class Died(Exception):  # noqa: N818 - a state of a process, not a fault of ours
    """A measured process ended, hung or failed; the text says how, with its last lines, in one line."""


class Refused(Died):
    """The detector cannot have the form that was asked for, here or at all; the text says why and what to do."""


class Worker:
    """One measuring process. `source` is the checkout whose code it runs."""

    def __init__(self, subject: Subject, conditions: Conditions, *, patience_s: float = PATIENCE_S, source: Path = places.SOURCE) -> None:
        self.subject, self.conditions, self.patience_s = subject, conditions, patience_s
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if conditions.device == "cpu" else {}
        where = os.pathsep.join([str(source), *filter(None, [os.environ.get("PYTHONPATH", "")])])
        home = {"LEANDET_HOME": str(places.home())}  # runs and weights are ours, also for another checkout's code
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.timing_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env={**os.environ, **home, **hidden, "PYTHONPATH": where},
        )
        self._unread = b""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def open(self) -> dict[str, Any]:
        """Build the detector; what names it. UserError and Died as `ask`."""
        return self.ask("open", subject=asdict(self.subject), conditions=asdict(self.conditions))

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """The answer to a request; UserError where it is the user's mistake, Refused for a form that cannot be, Died where there is none."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Died(self._ended()) from error
        answer = json.loads(self._line(do))
        if "user" in answer:
            raise UserError(answer["user"]["text"])
        if "refused" in answer:
            raise Refused(_one_line(answer["refused"]["text"]))
        if "error" in answer:
            raise Died(_one_line(answer["error"]["text"]))
        given: dict[str, Any] = answer["ok"]
        return given

    def _line(self, do: str) -> bytes:
        assert self._process.stdout is not None
        stream, until = self._process.stdout.fileno(), time.monotonic() + self.patience_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([stream], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                self._kill()
                raise Died(f"hung: no answer to {do!r} within {self.patience_s:g} s{self._last_words()}")
            piece = os.read(stream, 1 << 16)
            if not piece:
                raise Died(self._ended())
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _ended(self) -> str:
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._kill()
            code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"died: {how}{self._last_words()}"

    def _last_words(self) -> str:
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, self._words.tell() - 4000))
        lines = [line.strip() for line in self._words.read().decode(errors="replace").splitlines() if line.strip()]
        return _one_line(f"; its last lines: {' | '.join(lines[-LINES:])}") if lines else ""

    def _kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """End the process and wait for it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._words.close()


def _one_line(text: str) -> str:
    """In one line, without where this checkout or its user lies."""
    for path in (f"{places.SOURCE}{os.sep}", f"{Path.home()}{os.sep}"):
        text = text.replace(path, "")
    return " ".join(text.split())
