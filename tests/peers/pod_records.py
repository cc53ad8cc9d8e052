"""POD's records as its runs would leave them, for the tests of its cells and of its sentences."""

from __future__ import annotations

from bench.catalogue import catalogue
from bench.claims import decide
from bench.evidence import Difference, Evidence
from bench.records import Record

ENTRY = catalogue()["pod"]
PAPER = ENTRY.paper


def evidence(records=(), differences=()):
    """What stands of POD: these records and differences alone."""
    return Evidence(PAPER, ENTRY.published, tuple(records), tuple(differences))


def sentences(records=(), differences=()):
    """Every claim by its key, decided on these records and differences alone."""
    return {claim.key: claim for claim in decide(PAPER, ENTRY.published, evidence(records, differences))}


def trained(row, seed=0, kind="train", tier="proxy", **values):
    """The record of a run, of 30 AP unless told otherwise."""
    end = ".plateau" if kind == "plateau" else ""
    context = {"data": "scenes-v1", "machine": {"name": "desk"}}
    return Record(f"pod.{row}.{tier}.s{seed}{end}", kind, "pod", row, tier, seed, "ok", "", "now", {"ap": 30.0, **values}, context=context)


def scales(value=1.2, deviation=0.01, **others):
    """What a Derive step leaves in a record: every measure of Table 3, and one block by its own name."""
    names = [f"conv{stage}_{end}" for stage in (3, 4, 5) for end in ("first", "last")] + ["R31"]
    found = {}
    for name in (f"{name}_{direction}_{split}" for name in names for direction in "hw" for split in ("train", "val")):
        found |= {name: value, f"std_{name}": deviation}
    return found | others


def timed(row, base, whole_ms, ratio=None, form=""):
    """A latency record of a row, in a form ("@onnx") or none, in turns with its baseline at equal RoIs, as `leandet time` leaves it."""
    names = [f"{part}_ratio{end}" for end in ("", "_low", "_high") for part in ("whole", "network")]
    values = {"whole_ms": whole_ms} | (dict(zip(names, (number for number in ratio for _ in "wn"), strict=True)) if ratio else {})
    context = {"against": [f"pod.{base}.paper{form}", "w"] if ratio else [], "rois_given": 300, "quiet": "ok", "machine": {"name": "desk"}}
    context |= {"device": "cpu", "precision": "float32"}
    return Record(f"pod.{row}.paper{form}.latency.1", "latency", "pod", row + form, "paper", 0, "ok", "", "now", values, context=context)


def gain(pair, value, width=0.5):
    """A row minus another, of five seeds, with its interval."""
    return Difference("pod", *pair, "ap", "proxy", value, (value - width, value + width), 5, 0.2)
