import hashlib
import io
import threading
import time
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


NAME = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"


class Server:
    """A publisher whose answers take a while; counts them."""

    def __init__(self, content=b"weights", seconds=0.3):
        self.content, self.seconds, self.count = content, seconds, 0

    def __call__(self, url, timeout):
        self.count += 1
        time.sleep(self.seconds)
        answer = io.BytesIO(self.content)
        answer.headers = {"Content-Length": str(len(self.content))}
        return answer


@pytest.fixture
def server(cache, monkeypatch):
    server = Server()
    monkeypatch.setattr(hub.urllib.request, "urlopen", server)
    monkeypatch.setattr(hub, "_POLL", 0.01)
    return server


def test_one_of_several_processes_downloads(cache, server):
    found = []
    threads = [threading.Thread(target=lambda: found.append(hub.fetch(NAME))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.count == 1
    assert len(found) == 4
    assert {path.read_bytes() for path in found} == {b"weights"}
    assert sorted(path.name for path in found[0].parent.iterdir()) == ["R-50.pkl", "R-50.pkl.sha256"]


def test_the_lock_of_a_killed_process_is_removed(cache, server, monkeypatch, caplog):
    monkeypatch.setattr(hub, "_STALE", 0.1)
    lock = cache / "detectron2/detectron2/ImageNetPretrained/MSRA/R-50.pkl.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    caplog.set_level("INFO", "backbone")
    assert hub.fetch(NAME).read_bytes() == b"weights"
    assert caplog.text.count("waiting for another process, which downloads R-50.pkl") == 1
    assert not lock.exists()


def test_another_process_goes_on_where_one_fails(cache, server, monkeypatch):
    answers, tries = [], []

    def first_fails(url, timeout):
        tries.append(url)
        if len(tries) == 1:
            time.sleep(0.1)
            raise urllib.error.URLError("no network")
        return server(url, timeout)

    def fetch():
        try:
            answers.append(hub.fetch(NAME).read_bytes())
        except ConnectionError as error:
            answers.append(type(error))

    monkeypatch.setattr(hub.urllib.request, "urlopen", first_fails)
    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [ConnectionError, b"weights"]


def test_temporary_names_differ_between_processes_of_one_id(tmp_path):
    assert len({hub._temporary(tmp_path / "a") for _ in range(20)}) == 20
