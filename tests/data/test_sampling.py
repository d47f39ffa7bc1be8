"""Bottom-k samples: uniform, independent of the order, nested, in constant memory."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ogpsa_factory.data.sampling import KeyedSample


KEYS = st.lists(st.text(max_size=3), max_size=30)


def drawn(keys, size, seed):
    sample = KeyedSample(size, seed)
    for key in keys:
        sample.put(key, key.upper())
    return sample.items()


@given(KEYS, st.integers(1, 10), st.integers(0, 3), st.randoms())
def test_the_order_of_the_stream_does_not_matter(keys, size, seed, rng):
    shuffled = list(keys)
    rng.shuffle(shuffled)
    assert drawn(keys, size, seed) == drawn(shuffled, size, seed)


@given(KEYS, st.integers(1, 10), st.integers(1, 10), st.integers(0, 3))
def test_a_smaller_sample_begins_a_larger_one(keys, size, more, seed):
    few = drawn(keys, size, seed)
    assert drawn(keys, size + more, seed)[:size] == few
    assert len(few) == min(size, len(set(keys))) and {key for key, _ in few} <= set(keys)


@given(KEYS, st.integers(1, 5))
def test_memory_is_that_of_the_sample(keys, size):
    sample = KeyedSample(size, 0)
    for key in keys:
        sample.put(key, key)
        assert len(sample._values) == len(sample._highest) <= size


def test_every_key_is_drawn_as_often():
    keys = [str(i) for i in range(20)]
    times = Counter(key for seed in range(2000) for key, _ in drawn(keys, 5, seed))
    assert set(times) == set(keys)  # 500 each on average, with a standard deviation of 19
    assert all(abs(count - 500) < 100 for count in times.values())


def test_values_of_kept_keys_change():
    sample = KeyedSample(3, 0)
    for key in random.Random(0).choices("abc", k=20):
        sample.put(key, (sample.get(key) or 0) + 1)
    assert sum(value for _, value in sample.items()) == 20
