import hashlib
import urllib.error

import pytest

from backbone import hub


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path))
    return tmp_path


def test_addresses_are_the_owners():
    assert hub.address("torchvision://resnet18").startswith("https://download.pytorch.org/models/resnet18-f37072fd")
    assert "resnet50-11ad3fa6" in hub.address("torchvision://resnet50/IMAGENET1K_V2")
    assert hub.address("detectron2://ImageNetPretrained/MSRA/R-101.pkl") == (
        "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-101.pkl"
    )


@pytest.mark.parametrize(
    "name", ["torchvision://resnet5", "torchvision://resnet50/V9", "timm://resnet50", "detectron2://../x"]
)
def test_unknown_names(name):
    with pytest.raises(ValueError, match="wanted"):
        hub.address(name)


def test_offline_names_the_address_and_the_way_out(cache, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(hub.urllib.request, "urlopen", offline)
    with pytest.raises(
        ConnectionError, match=r"download.pytorch.org/models/resnet18-f37072fd.pth.*no network.*--weights FILE"
    ):
        hub.fetch("torchvision://resnet18")
    assert not list(cache.rglob("*.part*"))


def test_a_cached_file_is_checked_by_its_published_hash(cache):
    path = cache / "torchvision" / "models" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not the weights")
    with pytest.raises(ValueError, match=r"does not begin with f37072fd"):
        hub.fetch("torchvision://resnet18")


def test_an_unpublished_hash_is_kept_and_held_to(cache):
    path = cache / "detectron2/detectron2/ImageNetPretrained/MSRA/R-50.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    assert hub.fetch("detectron2://ImageNetPretrained/MSRA/R-50.pkl") == path
    assert (path.parent / "R-50.pkl.sha256").read_text().strip() == hashlib.sha256(b"first").hexdigest()
    path.write_bytes(b"changed")
    with pytest.raises(ValueError, match="remove the file"):
        hub.fetch("detectron2://ImageNetPretrained/MSRA/R-50.pkl")


def test_detectron2_s_zoo_by_its_names():
    wanted = "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/faster_rcnn_R_50_C4_1x/137257644/model_final_721ade.pkl"
    assert hub.address("detectron2://COCO-Detection/faster_rcnn_R_50_C4_1x") == wanted
    assert hub.address("detectron2://COCO-Detection/faster_rcnn_R_50_C4_1x.yaml") == wanted
    assert hub.address("detectron2://PascalVOC-Detection/faster_rcnn_R_50_C4").endswith(
        "/142202221/model_final_b1acc2.pkl"
    )
    assert hub.address(wanted.replace("https://dl.fbaipublicfiles.com/detectron2/", "detectron2://")) == wanted
