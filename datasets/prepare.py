"""Download and prepare datasets: `python datasets/prepare.py voc|coco|shapes --root DIR`. See README.md in this folder.

Archives are downloaded from the datasets' publishers; interrupted downloads are resumed; archives that exist in the root
(or in --archives) are used. `shapes` writes the synthetic dataset in VOC and COCO format.
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

TIMEOUT = 20  # seconds without data


@dataclass(frozen=True)
class Archive:
    """An archive of a dataset.

    Attributes:
        url: of the publisher.
        md5: known digest (from torchvision's datasets), None where there is none (COCO).
        creates: a path that exists once the archive is unpacked.
    """

    url: str
    md5: str | None
    creates: str

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
    parser.add_argument("--archives", type=Path, help="folder with downloaded archives (default: ROOT)")
    parser.add_argument("--count", type=int, default=200, help="shapes: images in each of train and val")
    parser.add_argument("--seed", type=int, default=0, help="shapes: seed of the images")
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
    """Download, check and unpack an archive under root, unless that is done."""
    marker = root / f".{archive.name}.unpacked"  # written last: archive.creates exists before unpacking is complete
    if marker.exists() and (root / archive.creates).exists():
        print(f"{archive.creates}: already prepared")
        return
    path = archives / archive.name
    if not path.exists():
        download(archive, path)
    check_md5(archive, path)
    print(f"unpacking {path}")
    root.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            file.extractall(root)  # ignores absolute paths and ".."
    else:
        with tarfile.open(path) as file:
            for member in file:
                # the archives contain VOCdevkit/VOC2007/…; root is VOCdevkit itself
                member.name = member.name.removeprefix("VOCdevkit/")
                file.extract(member, root, filter="data")  # rejects paths outside root
    marker.touch()


def download(archive: Archive, path: Path) -> None:
    """Download to PATH.part, resuming an interrupted download, and rename it when complete.

    Raises:
        ConnectionError: the URL cannot be reached, or the download is incomplete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    received = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={received}-"} if received else {})
    columns = (TextColumn(archive.name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response, Progress(*columns) as bar:
            resumed = received > 0 and response.status == 206
            received = received if resumed else 0
            total = received + int(response.headers.get("Content-Length") or 0)
            task = bar.add_task("", total=total or None, completed=received)
            with part.open("ab" if resumed else "wb") as file:
                while block := response.read(1 << 20):
                    file.write(block)
                    bar.advance(task, len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # range not satisfiable: the earlier download was complete
            part.replace(path)
            return
        raise ConnectionError(f"{archive.url}: {error}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ConnectionError(
            f"{archive.url} cannot be reached ({getattr(error, 'reason', error)}). Run again to resume the download, or "
            f"download that file elsewhere and put it at {path}"
        ) from error
    if total and part.stat().st_size != total:
        raise ConnectionError(
            f"{archive.url}: incomplete download, {part.stat().st_size} of {total} bytes; run again to resume"
        )
    part.replace(path)


def check_md5(archive: Archive, path: Path) -> None:
    """Compare a file with its MD5, where one is known.

    Raises:
        ValueError: the digests differ.
    """
    if archive.md5 is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != archive.md5:
        raise ValueError(f"{path}: MD5 {digest}, expected {archive.md5}; remove the file and run again")


def write_shapes(root: Path, count: int, seed: int) -> None:
    """Write the synthetic dataset as COCO (annotations/, train/, val/) and VOC (VOC/: Annotations, JPEGImages, ImageSets).

    Args:
        root: the output folder.
        count: images in each of train and val.
        seed: of the images.
    """
    if count < 1:
        raise ValueError(f"--count must be at least 1, got {count}")
    voc = root / "VOC"
    for folder in (root / "annotations", voc / "Annotations", voc / "JPEGImages", voc / "ImageSets" / "Main"):
        folder.mkdir(parents=True, exist_ok=True)
    for offset, split in enumerate(("train", "val")):
        records = shapes_records(count, seed + offset * 1_000_003)
        (root / split).mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(records.to_coco()), encoding="utf-8")
        names = [records.files[i].removesuffix(".png") for i in range(count)]
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        for i, name in enumerate(names):
            image = Image.fromarray(draw_image(records.files[i]))
            image.save(root / split / f"{name}.png")
            image.save(voc / "JPEGImages" / f"{name}.jpg", quality=95)
            (voc / "Annotations" / f"{name}.xml").write_text(voc_xml(records, i, name), encoding="utf-8")
        print(f"{split}: {count} images, {len(records.labels)} objects")


def voc_xml(records: Annotations, i: int, stem: str) -> str:
    """Return the VOC XML of image i, with boxes rounded to pixels, 1-based and inclusive."""
    height, width = records.sizes[i]
    objects = []
    rows = records.objects(i)
    for (x1, y1, x2, y2), label in zip(records.boxes[rows], records.labels[rows], strict=True):
        corners = {"xmin": round(x1) + 1, "ymin": round(y1) + 1, "xmax": round(x2), "ymax": round(y2)}
        box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners.items())
        name = escape(records.classes[label - 1])
        objects.append(f"<object><name>{name}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>")
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{stem}.jpg</filename>{size}{''.join(objects)}</annotation>\n"


if __name__ == "__main__":
    sys.exit(main())
