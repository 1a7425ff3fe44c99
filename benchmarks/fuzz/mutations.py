"""Files damaged at random: what an image becomes on a bad disk, in a bad hand, or on its way."""

import random
from collections.abc import Callable

_LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2_000_000_000)


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _overwrite(data: bytearray, chance: random.Random) -> None:
    start, length = _place(data, chance), chance.choice((1, 2, 4, 16, 300))
    filling = chance.choice((b"\x00", b"\xff", chance.randbytes(1), b"\xff\xd9", b"\xff\xda"))
    data[start : start + length] = (filling * length)[: min(length, len(data) - start)]


def _set_number(data: bytearray, chance: random.Random) -> None:
    start, length = _place(data, chance), chance.choice((1, 2, 4))
    value = chance.choice(_LENGTHS) & ((1 << 8 * length) - 1)
    data[start : start + length] = value.to_bytes(length, chance.choice(("big", "little")))


def _cut_end(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _cut_out(data: bytearray, chance: random.Random) -> None:
    start = _place(data, chance)
    del data[start : start + chance.choice((1, 2, 4, 30, 500))]


def _insert(data: bytearray, chance: random.Random) -> None:
    start = _place(data, chance)
    data[start:start] = chance.choice((chance.randbytes(chance.randrange(1, 64)), b"\xff" * 200, bytes(50)))


def _repeat(data: bytearray, chance: random.Random) -> None:
    start, length = _place(data, chance), chance.choice((4, 30, 300))
    data[start:start] = data[start : start + length]


def _end_early(data: bytearray, chance: random.Random) -> None:
    data[_place(data, chance) :] = chance.choice((b"\xff\xd9", b"\x00\x00\x00\x00IEND\xaeB`\x82", b"\x00\x01"))


_KINDS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip,
    _overwrite,
    _set_number,
    _cut_end,
    _cut_out,
    _insert,
    _repeat,
    _end_early,
)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The file with one to three faults; half of them lie in its first bytes, where the headers are."""
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        if damaged:
            chance.choice(_KINDS)(damaged, chance)
    return bytes(damaged)


def _place(data: bytearray, chance: random.Random) -> int:
    return chance.randrange(min(len(data), chance.choice((64, 400, len(data), len(data))))) if data else 0
