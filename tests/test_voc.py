"""PASCAL VOC folders: truth by hand, each fault by its message."""

from pathlib import Path

import pytest
from PIL import Image

from bench.datasets import open_split, parse_data
from bench.types import UserError

OBJECT = (
    "<object><name>{name}</name>{more}<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
)


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


def voc_xml(*objects: str, size: str = "<size><width>20</width><height>10</height><depth>3</depth></size>") -> str:
    return f"<annotation><filename>x.jpg</filename>{size}{''.join(objects)}</annotation>"


def voc_object(name="dog", box=(1, 1, 20, 10), more="<difficult>0</difficult>") -> str:
    return OBJECT.format(name=name, box=box, more=more)


def write_voc(root: Path, year: str, name: str, xml: str, *, sets: str = "trainval") -> Path:
    folder = root / f"VOC{year}"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "Annotations" / f"{name}.xml").write_text(xml)
    Image.new("RGB", (20, 10), (7, 8, 9)).save(folder / "JPEGImages" / f"{name}.jpg")
    with (folder / "ImageSets" / "Main" / f"{sets}.txt").open("a") as stream:
        stream.write(f"{name}\n")
    return folder / "Annotations" / f"{name}.xml"


def test_voc_by_hand(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    write_voc(tmp_path, "2007", "000012", voc_xml(voc_object(), voc_object("person", (3, 4, 3, 4), "<difficult>1</difficult>")))
    write_voc(tmp_path, "2007", "000005", voc_xml())
    write_voc(tmp_path, "2012", "2008_000001", voc_xml(voc_object("person", ("45.0e-1", 0, 21, 5), part)))
    split = open_split(parse_data(f"voc={tmp_path}"), "train")
    assert split.name == "voc:2007_trainval+2012_trainval"
    assert len(split.classes) == 20
    assert (split.classes[0], split.classes[19]) == ("aeroplane", "tvmonitor")
    assert [split.image_id(at) for at in range(3)] == [12, 5, 2008000001]
    assert split.image_name(2) == "VOC2012/JPEGImages/2008_000001.jpg"
    target = split.target(0)
    assert target.boxes.tolist() == [[0, 0, 20, 10], [2, 3, 3, 4]]  # one pixel is a box of 1x1
    assert target.labels.tolist() == [11, 14]
    assert target.difficult.tolist() == [False, True]
    assert target.crowd.tolist() == [False, False]
    assert split.target(1).boxes.shape == (0, 4)
    assert split.target(2).boxes.tolist() == [[3.5, 0, 20, 5]]  # ymin 0 and xmax 21 stick out by one pixel: rounding
    assert split.ground_truth().area.tolist() == [200, 1, 82.5]
    assert split.image(0).shape == (3, 10, 20)


def test_voc_sets_classes_and_ids(tmp_path):
    write_voc(tmp_path / "VOCdevkit", "Mine", "one", voc_xml(voc_object("gear")), sets="all")
    write_voc(tmp_path / "VOCdevkit", "Mine", "7", voc_xml(voc_object("nut")), sets="all")
    split = open_split(parse_data(f"voc={tmp_path},test=Mine_all,classes=nut+gear"), "test")
    assert split.classes == ("nut", "gear")
    assert [split.image_id(at) for at in range(2)] == [1, 2]  # not all names are numbers
    assert split.target(0).labels.tolist() == [1]
    assert "different names" in message(open_split, parse_data(f"voc={tmp_path},test=Mine_all,classes=nut+nut"), "test")
    assert "its name is 'gear'; allowed are aeroplane" in message(open_split, parse_data(f"voc={tmp_path},test=Mine_all"), "test")


BOMB = "".join(
    [
        '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">',
        *[f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True)],
        "]><annotation>&i;</annotation>",
    ]
)


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (voc_xml(voc_object(box=(1, 1, 22, 10))), "object 1: bndbox [1.0, 1.0, 22.0, 10.0] lies outside its image of 20x10"),
        (voc_xml(voc_object(), voc_object(box=(5, 5, 4, 9))), "object 2: bndbox [5.0, 5.0, 4.0, 9.0] is of zero or negative size"),
        (voc_xml(voc_object(box=("nan", 5, 4, 9))), "finite"),
        (voc_xml(voc_object(box=("x", 5, 4, 9))), "allowed are four numbers"),
        (voc_xml("<object><name>dog</name></object>"), "allowed are four numbers"),
        (voc_xml(voc_object("unicorn")), "its name is 'unicorn'"),
        (voc_xml("<object/>"), "its name is ''"),
        (voc_xml(voc_object(more="<difficult>maybe</difficult>")), "difficult is 'maybe'; allowed are 0 and 1"),
        (voc_xml(voc_object(), size=""), "size/width and size/height"),
        (voc_xml(voc_object(), size="<size><width>inf</width><height>10</height></size>"), "size/width and size/height"),
        (voc_xml(voc_object())[:-30], "not valid XML"),
        ("", "not valid XML"),
        (BOMB, "XML that is not allowed"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotation/>', "XML that is not allowed"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "XML"),
    ],
)
def test_voc_faults_name_the_file(tmp_path, xml, words):
    path = write_voc(tmp_path, "2007", "000012", xml)
    text = message(open_split, parse_data(f"voc={tmp_path},train=2007_trainval"), "train")
    assert text.startswith(f"{path}: ")
    assert words in text


def test_voc_missing_pieces(tmp_path):
    data = parse_data(f"voc={tmp_path},train=2007_trainval,val=2007_val,test=../../etc_passwd")
    assert "no such folder" in message(open_split, parse_data(f"voc={tmp_path / 'gone'}"), "train")
    assert "trainval.txt: there is no such file" in message(open_split, data, "train")
    xml = write_voc(tmp_path, "2007", "000012", voc_xml(voc_object()))
    assert len(open_split(data, "train")) == 1
    assert "is not FOLDER_SET" in message(open_split, data, "test")
    listed = tmp_path / "VOC2007/ImageSets/Main/val.txt"
    listed.write_text("\n\n")
    assert f"{listed}: the image set is empty" in message(open_split, data, "val")
    listed.write_text("000012\n000012\n")
    assert f"{listed}: '000012' is there twice" in message(open_split, data, "val")
    listed.write_text("000012 -1\n")
    assert f"{listed}: '000012 -1' is not the name" in message(open_split, data, "val")
    listed.write_bytes(b"\xff\xfe")
    assert f"{listed}: not a text" in message(open_split, data, "val")
    image = tmp_path / "VOC2007/JPEGImages/000012.jpg"
    image.unlink()
    assert f"{image}: there is no such image" in message(open_split, data, "train")
    xml.unlink()
    assert f"{xml}: there is no such file" in message(open_split, data, "train")
    write_voc(tmp_path, "2012", "2008_000001", voc_xml(), sets="bare")
    assert "holds no box" in message(open_split, parse_data(f"voc={tmp_path},train=2012_bare"), "train")
