"""Fetches and lays out data sets: `python datasets/prepare.py voc|coco|shapes --root DIR`. See README.md beside this file.

Archives come from the data sets' owners; a broken download is resumed; archives that already lie in the folder (or in
--archives) are taken as they are. `shapes` draws the embedded set and writes it in VOC's and in COCO's form.
"""

import argparse
import hashlib
import json
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from detection.data.annotations import Annotations
from detection.data.synthetic import draw_image, shapes_records

TIMEOUT = 20  # seconds without a byte before a host counts as unreachable


@dataclass(frozen=True)
class Archive:
    """A file of a data set: its owner's address, the MD5 that is known of it (torchvision's records; COCO's owner publishes
    none), and a path that is there once it is unpacked."""

    url: str
    md5: str | None
    makes: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


_VOC = "http://host.robots.ox.ac.uk/pascal/VOC/"
_COCO = "http://images.cocodataset.org/"
ARCHIVES = {
    "voc": [
        Archive(
            _VOC + "voc2007/VOCtrainval_06-Nov-2007.tar",
            "c52e279531787c972589f7e41ab4ae64",
            "VOC2007/ImageSets/Main/trainval.txt",
        ),
        Archive(
            _VOC + "voc2007/VOCtest_06-Nov-2007.tar",
            "b6e924de25625d8de591ea690078ad9f",
            "VOC2007/ImageSets/Main/test.txt",
        ),
        Archive(
            _VOC + "voc2012/VOCtrainval_11-May-2012.tar",
            "6cd6e144f989b92b3379bac3b3de84fd",
            "VOC2012/ImageSets/Main/trainval.txt",
        ),
    ],
    "coco": [
        Archive(_COCO + "annotations/annotations_trainval2017.zip", None, "annotations/instances_train2017.json"),
        Archive(_COCO + "zips/val2017.zip", None, "val2017"),
        Archive(_COCO + "zips/train2017.zip", None, "train2017"),
    ],
    "coco2014": [
        Archive(_COCO + "annotations/annotations_trainval2014.zip", None, "annotations/instances_train2014.json"),
        Archive(_COCO + "zips/val2014.zip", None, "val2014"),
        Archive(_COCO + "zips/train2014.zip", None, "train2014"),
    ],
}
DEFAULT_ROOT = {
    "voc": "datasets/VOCdevkit",
    "coco": "datasets/coco",
    "coco2014": "datasets/coco",
    "shapes": "datasets/shapes",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=[*ARCHIVES, "shapes"])
    parser.add_argument("--root", type=Path, help="where to put it (default: where the configurations look)")
    parser.add_argument("--archives", type=Path, help="folder with archives fetched elsewhere (default: ROOT)")
    parser.add_argument("--count", type=int, default=200, help="shapes: pictures of each of train and val")
    parser.add_argument("--seed", type=int, default=0, help="shapes: the pictures' seed")
    args = parser.parse_args()
    root = args.root or Path(DEFAULT_ROOT[args.dataset])
    try:
        if args.dataset == "shapes":
            write_shapes(root, args.count, args.seed)
        else:
            for archive in ARCHIVES[args.dataset]:
                prepare(archive, root, args.archives or root)
    except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.dataset} is ready in {root}")
    return 0


def prepare(archive: Archive, root: Path, archives: Path) -> None:
    """One archive unpacked under root, unless what it makes is there."""
    done = root / f".{archive.name}.unpacked"  # written last: what an archive makes exists long before it is whole
    if done.exists() and (root / archive.makes).exists():
        print(f"{archive.makes}: there already")
        return
    path = archives / archive.name
    if not path.exists():
        fetch(archive, path)
    check(archive, path)
    print(f"unpacking {path}")
    root.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            file.extractall(root)  # leaves out absolute paths and ".."
    else:
        with tarfile.open(path) as file:
            for member in file:
                # the archives hold VOCdevkit/VOC2007/…; root is VOCdevkit itself
                member.name = member.name.removeprefix("VOCdevkit/")
                file.extract(member, root, filter="data")  # refuses what would leave root
    done.touch()


def fetch(archive: Archive, path: Path) -> None:
    """Downloads to PATH.part, going on where an earlier try stopped, and renames at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})
    columns = (TextColumn(archive.name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response, Progress(*columns) as bar:
            resumed = have > 0 and response.status == 206
            have = have if resumed else 0
            total = have + int(response.headers.get("Content-Length") or 0)
            task = bar.add_task("", total=total or None, completed=have)
            with part.open("ab" if resumed else "wb") as file:
                while block := response.read(1 << 20):
                    file.write(block)
                    bar.advance(task, len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies beyond what is here: the file was whole when an earlier try stopped
            part.replace(path)
            return
        raise ConnectionError(f"{archive.url}: {error}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ConnectionError(
            f"{archive.url} cannot be reached ({getattr(error, 'reason', error)}). Call again when it can: what "
            f"came is kept. Or fetch that file elsewhere and put it at {path}"
        ) from error
    if total and part.stat().st_size != total:
        raise ConnectionError(f"{archive.url}: {part.stat().st_size} of {total} bytes came; call again to go on")
    part.replace(path)


def check(archive: Archive, path: Path) -> None:
    """Holds a file against its known MD5."""
    if archive.md5 is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != archive.md5:
        raise ValueError(f"{path}: MD5 {digest}, wanted {archive.md5}; remove the file and call again")


def write_shapes(root: Path, count: int, seed: int) -> None:
    """Drawn pictures as COCO (annotations/, train/, val/) and as VOC (VOC/: Annotations, JPEGImages, ImageSets)."""
    if count < 1:
        raise ValueError(f"--count wants at least 1, got {count}")
    voc = root / "VOC"
    for folder in (root / "annotations", voc / "Annotations", voc / "JPEGImages", voc / "ImageSets" / "Main"):
        folder.mkdir(parents=True, exist_ok=True)
    for offset, split in enumerate(("train", "val")):
        records = shapes_records(count, seed + offset * 1_000_003)
        (root / split).mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(records.to_coco()))
        names = [records.files[i].removesuffix(".png") for i in range(count)]
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            picture = Image.fromarray(draw_image(records.files[i]))
            picture.save(root / split / f"{name}.png")
            picture.save(voc / "JPEGImages" / f"{name}.jpg", quality=95)
            (voc / "Annotations" / f"{name}.xml").write_text(voc_xml(records, i, name))
        print(f"{split}: {count} pictures, {len(records.labels)} objects")


def voc_xml(records: Annotations, i: int, stem: str) -> str:
    """VOC's XML of a picture: whole pixels, 1-based and inclusive."""
    height, width = records.sizes[i]
    objects = []
    where = records.objects(i)
    for (x1, y1, x2, y2), label in zip(records.boxes[where], records.labels[where], strict=True):
        corners = {"xmin": round(x1) + 1, "ymin": round(y1) + 1, "xmax": round(x2), "ymax": round(y2)}
        box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners.items())
        name = escape(records.classes[label - 1])
        objects.append(f"<object><name>{name}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>")
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{stem}.jpg</filename>{size}{''.join(objects)}</annotation>\n"


if __name__ == "__main__":
    sys.exit(main())
