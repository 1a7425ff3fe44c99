"""Answers are kept by all that was asked, within a size, and only where the same image will always get them."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.response_cache import ResponseCache, is_kept, key_of, missing


def test_every_input_counts_for_the_key() -> None:
    image, box = b"image", b"\0" * 16
    asked = [
        {"IMAGE": image, "FACE_BOX": None, "THRESHOLD": None},
        {"IMAGE": image, "FACE_BOX": box, "THRESHOLD": None},
        {"IMAGE": image, "FACE_BOX": None, "THRESHOLD": box},
        {"IMAGE": image, "FACE_BOX": b"", "THRESHOLD": None},
        {"IMAGE": image + box, "FACE_BOX": b"", "THRESHOLD": None},
        {"IMAGE": b"other", "FACE_BOX": None, "THRESHOLD": None},
    ]
    assert all(key_of(one) != key_of(other) for one, other in combinations(asked, 2))
    assert key_of(asked[1]) == key_of(dict(reversed(asked[1].items())))
    assert len(key_of(asked[0])) == 32


@given(st.lists(st.tuples(st.integers(0, 30), st.binary(max_size=600)), max_size=60), st.integers(500, 4000))
def test_it_never_holds_more_than_its_size_and_never_another_row(puts: list[tuple[int, bytes]], size: int) -> None:
    cache, last = ResponseCache(size), dict[bytes, bytes]()
    for number, value in puts:
        key = bytes([number])
        cache.put(key, (value,))
        last[key] = value
        assert 0 <= cache.bytes <= size
        for each, kept in last.items():
            assert cache.get(each) in (None, (kept,))
    assert (cache.bytes == 0) == all(cache.get(key) is None for key in last)


def test_what_was_used_last_stays() -> None:
    cache = ResponseCache(1000)
    cache.put(b"a", (b"1",))
    cache.put(b"b", (b"2",))
    assert cache.get(b"a") == (b"1",)
    cache.put(b"c", (b"3",))
    assert [cache.get(key) for key in (b"a", b"b", b"c")] == [(b"1",), None, (b"3",)]
    assert missing([(b"1",), None, (b"3",), None]) == [1, 3]


@pytest.mark.parametrize("status", ["unreadable_image", "non_finite_logits", "empty_image"])
def test_no_failure_is_kept(status: str) -> None:
    assert not is_kept(status, "raw", face_networks=False)


@pytest.mark.parametrize(
    ("source", "always"),
    [
        ("raw", True),
        ("supplied", True),
        ("not_needed", True),
        ("bilateral", False),
        ("none", False),
        ("too_small", False),
    ],
)
def test_a_face_is_kept_where_no_failing_network_can_have_led_to_it(source: str, always: bool) -> None:
    assert is_kept("ok", source, face_networks=False)
    assert is_kept("ok", source, face_networks=True) == always
