import os

import imagehash
import numpy as np
import pytest
from own_data import write_image
from PIL import Image

from detection.data.splitting import perceptual_hash
from detection.data.splitting.perceptual_hash import hash_images, near_pairs


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def distance(a, b):
    return (int(a) ^ int(b)).bit_count()


def test_hash_is_imagehashs_of_the_grey_image(tmp_path):
    write_image(tmp_path / "a.png", 3)
    hashes, readable = hash_images([str(tmp_path / "a.png")], "set")
    assert readable.all()
    with Image.open(tmp_path / "a.png") as image:
        assert int(str(imagehash.phash(image.convert("L"))), 16) == int(hashes[0])


def test_saved_again_in_another_size_and_quality_is_near_and_others_are_far(tmp_path):
    for seed in range(8):
        write_image(tmp_path / f"{seed}.jpg", seed)
    with Image.open(tmp_path / "0.jpg") as image:
        image.resize((640, 480)).save(tmp_path / "large.jpg", quality=40)
    files = [str(tmp_path / name) for name in ("large.jpg", *(f"{seed}.jpg" for seed in range(8)))]
    hashes, _ = hash_images(files, "set")
    assert distance(hashes[0], hashes[1]) <= 4
    assert min(distance(hashes[0], other) for other in hashes[2:]) > 10


def test_exif_orientation_is_applied(tmp_path):
    write_image(tmp_path / "a.png", 1)
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(tmp_path / "a.png") as image:
        image.rotate(180).save(tmp_path / "b.png", exif=exif)
    hashes, _ = hash_images([str(tmp_path / "a.png"), str(tmp_path / "b.png")], "set")
    assert distance(*hashes) <= 2


def test_files_that_cannot_be_read_have_no_hash(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    hashes, readable = hash_images([str(tmp_path / "a.jpg"), str(tmp_path / "none.jpg")], "set")
    assert not readable.any()
    assert hashes.tolist() == [0, 0]


def test_unchanged_files_come_from_the_cache(tmp_path, monkeypatch):
    for seed in range(2):
        write_image(tmp_path / f"{seed}.jpg", seed)
    files = [str(tmp_path / f"{seed}.jpg") for seed in range(2)]
    first, _ = hash_images(files, "set")
    calls = []
    original = perceptual_hash._hash
    monkeypatch.setattr(perceptual_hash, "_hash", lambda file: calls.append(file) or original(file))
    assert (hash_images(files, "set")[0] == first).all()
    assert calls == []
    write_image(tmp_path / "1.jpg", 9)
    os.utime(tmp_path / "1.jpg", ns=(1, 1))
    seen = []
    changed, _ = hash_images(files, "set", lambda done, total: seen.append((done, total)))
    assert calls == files[1:]
    assert seen == [(1, 1)]
    assert changed[1] != first[1]


def test_a_damaged_cache_is_ignored(tmp_path):
    write_image(tmp_path / "0.jpg", 0)
    first, _ = hash_images([str(tmp_path / "0.jpg")], "set")
    (cache,) = (tmp_path / "cache").rglob("hashes-*.npz")
    cache.write_bytes(b"cut off")
    assert hash_images([str(tmp_path / "0.jpg")], "set")[0] == first


@pytest.mark.parametrize("limit", [0, 1, 4, 6, 10])
def test_pairs_are_those_of_all_against_all(limit):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 40, dtype=np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.choice(64, k, replace=False)) for k in range(12)], dtype=np.uint64)
    hashes = np.unique(np.concatenate([base, *(base[:10] ^ flip for flip in flips)]))
    rng.shuffle(hashes)
    wanted = [
        [i, j, d]
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (d := distance(hashes[i], hashes[j])) <= limit
    ]
    assert near_pairs(hashes, limit).tolist() == wanted


def test_equal_hashes_are_pairs_with_the_first():
    assert near_pairs(np.array([7, 5, 7, 7], dtype=np.uint64), 0).tolist() == [[0, 2, 0], [0, 3, 0]]
    # many equal ones are no square of pairs
    assert len(near_pairs(np.zeros(5000, dtype=np.uint64))) == 4999


def test_no_hashes_no_pairs():
    assert near_pairs(np.zeros(0, dtype=np.uint64)).shape == (0, 3)


def test_chunks_give_the_same_pairs(monkeypatch):
    hashes = np.random.default_rng(1).integers(0, 1 << 12, 300, dtype=np.uint64)
    whole = near_pairs(hashes)
    monkeypatch.setattr(perceptual_hash, "_CHUNK_PAIRS", 7)
    assert near_pairs(hashes).tolist() == whole.tolist()
