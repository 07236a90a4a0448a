import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import records

from detection.data.splitting.stratify import class_presence, stratify


def presence(rows, classes):
    result = np.zeros((len(rows), classes + 1), dtype=bool)
    for i, row in enumerate(rows):
        result[i, list(row) or [classes]] = True
    return result


def test_presence_of_classes_and_of_none():
    assert class_presence(records(3)).tolist() == [[False, False, True], [True, False, False], [True, True, False]]


def test_one_class_is_divided_as_asked():
    table = presence([{0}] * 50, 1)
    parts = stratify(table, np.arange(50), (0.8, 0.2), seed=0)
    assert np.bincount(parts).tolist() == [40, 10]


def test_classes_are_divided_in_proportion_where_a_random_split_would_not():
    """Ten classes of five images each: a random fifth misses one of them nearly always."""
    table = presence([{i % 10} for i in range(50)], 10)
    parts = stratify(table, np.arange(50), (0.8, 0.2), seed=0)
    for c in range(10):
        assert np.bincount(parts[table[:, c]], minlength=2).tolist() == [4, 1]


def test_images_without_objects_are_divided_too():
    table = presence([{0}] * 20 + [set()] * 10, 1)
    parts = stratify(table, np.arange(30), (0.8, 0.2), seed=0)
    assert np.bincount(parts[20:]).tolist() == [8, 2]


def test_a_class_of_two_images_has_one_on_each_side():
    table = presence([{0}] * 40 + [{0, 1}] * 2, 2)
    parts = stratify(table, np.arange(42), (0.8, 0.2), seed=3)
    assert sorted(parts[-2:].tolist()) == [0, 1]


def test_units_stay_together():
    rng = np.random.default_rng(0)
    table = presence([{int(c)} for c in rng.integers(0, 4, 60)], 4)
    unit_of = rng.integers(0, 25, 60)
    unit_of = np.unique(unit_of, return_inverse=True)[1]
    parts = stratify(table, unit_of, (0.6, 0.2, 0.2), seed=0)
    for unit in range(unit_of.max() + 1):
        assert len(set(parts[unit_of == unit].tolist())) == 1
    assert set(parts.tolist()) == {0, 1, 2}


def test_a_part_of_no_fraction_gets_nothing():
    table = presence([{0}] * 20, 1)
    assert set(stratify(table, np.arange(20), (0.8, 0.2, 0.0), seed=0).tolist()) == {0, 1}


def test_the_seed_alone_decides():
    table = presence([{i % 3} for i in range(40)], 3)
    first, again, other = (stratify(table, np.arange(40), (0.7, 0.3), seed=s) for s in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.sets(st.integers(0, 5), max_size=4), min_size=10, max_size=80),
    fraction=st.sampled_from([0.1, 0.2, 0.5]),
    seed=st.integers(0, 9),
)
def test_every_class_of_two_images_or_more_is_on_both_sides_and_sizes_are_near(rows, fraction, seed):
    table = presence(rows, 6)
    parts = stratify(table, np.arange(len(rows)), (1 - fraction, fraction), seed)
    for c in range(6):
        has = table[:, c]
        if has.sum() == 1 or not has.any():
            continue
        inside = np.bincount(parts[has], minlength=2)
        # one image may be all that several rare classes have
        others = [table[has][:, d].all() and d != c for d in range(6)]
        assert inside.min() >= 1 or any(others) or has.sum() <= 3, (c, inside)
    assert abs(float((parts == 1).mean()) - fraction) <= 0.2 + 6 / len(rows)


@pytest.mark.parametrize("count", [0, 1])
def test_few_images(count):
    assert len(stratify(presence([{0}] * count, 1), np.arange(count), (0.8, 0.2), seed=0)) == count
