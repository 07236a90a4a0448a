import hashlib
import urllib.error

import pytest

from backbone import hub


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path))
    return tmp_path


def test_urls_are_the_publishers():
    assert hub.url_of("torchvision://resnet18").startswith("https://download.pytorch.org/models/resnet18-f37072fd")
    assert "resnet50-11ad3fa6" in hub.url_of("torchvision://resnet50/IMAGENET1K_V2")
    assert hub.url_of("detectron2://ImageNetPretrained/MSRA/R-101.pkl") == (
        "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-101.pkl"
    )


@pytest.mark.parametrize(
    "name", ["torchvision://resnet5", "torchvision://resnet50/V9", "timm://resnet50", "detectron2://../x"]
)
def test_unknown_names(name):
    with pytest.raises(ValueError, match="expected"):
        hub.url_of(name)


def test_offline_error_gives_the_url_and_a_workaround(cache, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(hub.urllib.request, "urlopen", offline)
    with pytest.raises(
        ConnectionError, match=r"download.pytorch.org/models/resnet18-f37072fd.pth.*no network.*--weights FILE"
    ):
        hub.fetch("torchvision://resnet18")
    assert not list(cache.rglob("*.part*"))


def test_cached_file_is_checked_against_the_published_digest(cache):
    path = cache / "torchvision" / "models" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not the weights")
    with pytest.raises(ValueError, match=r"does not start with f37072fd"):
        hub.fetch("torchvision://resnet18")


def test_unpublished_digest_is_saved_and_checked(cache):
    path = cache / "detectron2/detectron2/ImageNetPretrained/MSRA/R-50.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    assert hub.fetch("detectron2://ImageNetPretrained/MSRA/R-50.pkl") == path
    assert (path.parent / "R-50.pkl.sha256").read_text().strip() == hashlib.sha256(b"first").hexdigest()
    path.write_bytes(b"changed")
    with pytest.raises(ValueError, match="remove the file"):
        hub.fetch("detectron2://ImageNetPretrained/MSRA/R-50.pkl")


def test_detectron2_model_zoo_names():
    url = "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/faster_rcnn_R_50_C4_1x/137257644/model_final_721ade.pkl"
    assert hub.url_of("detectron2://COCO-Detection/faster_rcnn_R_50_C4_1x") == url
    assert hub.url_of("detectron2://COCO-Detection/faster_rcnn_R_50_C4_1x.yaml") == url
    assert hub.url_of("detectron2://PascalVOC-Detection/faster_rcnn_R_50_C4").endswith(
        "/142202221/model_final_b1acc2.pkl"
    )
    assert hub.url_of(url.replace("https://dl.fbaipublicfiles.com/detectron2/", "detectron2://")) == url
