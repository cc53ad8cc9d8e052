"""Which data is meant: the text after `--data`, as a value. Standard library only; opens no file."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from os.path import realpath
from pathlib import Path

from bench.types import UserError

SPLITS = ("train", "val", "test")
COMMON = ("annotations", "labels")  # folders that lie in every dataset and name none
VARIANTS = ("scenes-v1-crowded",)  # the names in scene_variants.py
CONTROLS = ("scenes-v1-uninformative", "scenes-v1-onesize", "scenes-v1-sparse")  # those beside the plain ones in scene_plans.py
_KEYS = {"coco": (*SPLITS, "images", "empty"), "voc": ("voc", *SPLITS, "classes", "empty")}
JOIN = "+"  # between the files, or the image sets, of one split
_FORMS = (
    "scenes-v1, or train=A.json,val=B.json,test=C.json[+D.json][,images=DIR], "
    "or voc=DIR[,train=2007_trainval+2012_trainval,val=2007_val,test=2007_test]"
)


@dataclass(frozen=True)
class Data:
    """A dataset by its kind (a key of DATASETS), its name in tables and records (no path of a machine), and its parts as given."""

    kind: str
    name: str
    parts: tuple[tuple[str, str], ...] = ()  # pairs, so that it can be hashed; sorted by key

    def part(self, key: str, default: str = "") -> str:
        """The part of that key, or the default."""
        return dict(self.parts).get(key, default)


def or_one_file(text: str) -> str:
    """A text as after --data; a COCO JSON's path alone, `coco:` before it or not, is made a test split of that file."""
    first, *more = text.removeprefix("coco:").split(",")
    return ",".join((f"test={first}", *more)) if first.endswith(".json") and not {"=", ":"} & set(first) else text


def parse_data(text: str) -> Data:
    """The data that a text means; UserError names an unknown key and the allowed ones.

    "scenes-v1" (any name that begins with "scenes") is drawn on the fly. "train=A.json,val=B.json,test=C.json[,images=DIR]" is COCO JSON; a split
    that is not given cannot be opened, and one of several files is "test=B.json+C.json" (kind "joined"). "voc=DIR" is a folder that holds
    VOC2007, VOC2012; its splits are image sets joined by "+".
    "KEY=TEXT" goes to a reader that an installed package adds under that key (entry points of the group leandet.datasets).
    "empty=drop" leaves out boxes of zero size (COCO's own train2017 has two), which are a fault otherwise.
    """
    text = text.strip()
    if text.startswith("scenes") and "=" not in text and "," not in text:
        return Data("variant" if text in VARIANTS else "scenes", text)
    key, _, rest = text.partition("=")
    if rest and key not in _KEYS["coco"] + _KEYS["voc"] and key in _added():
        return Data("added", f"{key}:{Path(rest).name}", ((key, rest),))
    parts = _pairs(text)
    kind = "voc" if "voc" in parts else "coco"
    for key in parts:
        if key not in _KEYS[kind]:
            raise UserError(f"--data {text!r}: unknown key {key!r}; allowed are {', '.join(_KEYS[kind])}")
    if parts.get("empty", "drop") != "drop":
        raise UserError(f"--data {text!r}: empty={parts['empty']} is unknown; allowed is empty=drop, or leave it out")
    if kind == "coco" and not any(split in parts for split in SPLITS):
        raise UserError(f"--data {text!r}: it names no split; give at least one of train=FILE, val=FILE, test=FILE")
    if kind == "coco" and any(files_of(parts[split]) != (parts[split],) for split in SPLITS if split in parts):
        kind = "joined"
        _check_joined(text, {split: files_of(parts[split]) for split in SPLITS if split in parts})
    return Data(kind, _name(kind, parts), tuple(sorted(parts.items())))


def _added() -> dict[str, object]:
    """The readers that installed packages add, by key."""
    from bench.adapters import DATASETS, entry_points

    return dict(entry_points(DATASETS))


def files_of(value: str) -> tuple[str, ...]:
    """The COCO files that a split is made of, in the order given; a "+" in the name of a file that exists joins nothing."""
    return (value,) if JOIN not in value or Path(value).is_file() else tuple(name.strip() for name in value.split(JOIN))


def _check_joined(text: str, files: dict[str, tuple[str, ...]]) -> None:
    """UserError for an empty name, a file twice in a split, or one in train and in test; val may lie in either, as it chooses nothing."""
    for split, names in files.items():
        if "" in names:
            raise UserError(f"--data {text!r}: {split} has an empty file name beside a '+'; allowed are files joined by '+', as in B.json+C.json")
        twice = next((a for a, b in combinations(names, 2) if realpath(a) == realpath(b)), "")
        if twice:
            raise UserError(f"--data {text!r}: {split} has {twice} twice; name each file once")
    both = next((a for a in files.get("train", ()) for b in files.get("test", ()) if realpath(a) == realpath(b)), "")
    if both:
        raise UserError(f"--data {text!r}: {both} is in train and in test; allowed are other images to test on; leave it out of one")


def _pairs(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for piece in text.split(","):
        key, equals, value = (word.strip() for word in piece.partition("="))
        if not equals or not key or not value:
            raise UserError(f"--data {text!r}: {piece!r} is not KEY=VALUE; allowed is {_FORMS}")
        if key in parts:
            raise UserError(f"--data {text!r}: {key} is given twice; leave one of them out")
        parts[key] = value
    return parts


def _name(kind: str, parts: dict[str, str]) -> str:
    if kind == "voc":
        return f"voc:{parts.get('train', 'default')}"
    first = next(parts[split] for split in SPLITS if split in parts)
    folders = Path(files_of(first)[0]).absolute().parents
    return f"coco:{next((folder.name for folder in folders if folder.name not in COMMON), '')}"
