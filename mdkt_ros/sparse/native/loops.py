"""Loops over voxels and pairs that NumPy has no words for, compiled by Numba.

Levels come sorted by batch, x, y, z, and a step to a neighbour is the same number for every key: so the voxels that are
looked for ascend like those that look, and both are walked once side by side (a merge), without a hash or a search.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba import carray  # type: ignore[attr-defined]
from numba.core import types
from numba.extending import intrinsic

_F = TypeVar("_F", bound=Callable[..., Any])
_Keys = npt.NDArray[np.int64]
_Rows = npt.NDArray[np.int32]


def compiled(function: _F) -> _F:
    """Compile by Numba when it is first called; kept on disk."""
    try:
        made: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder may be written to: compile in every process
        made = numba.njit(nogil=True)(function)
    return cast(_F, made)


@intrinsic
def _int32_at(_context: Any, address: Any) -> Any:
    """The pointer to int32 that an address (int64) is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int32)(types.int64), generate  # type: ignore[no-untyped-call]


@compiled
def extent(coordinates: _Rows) -> _Keys:  # pragma: no cover - compiled
    """(8,): lowest [batch, x, y, z] of (V, 4) coordinates, V > 0, then the highest."""
    result = np.empty(8, dtype=np.int64)
    for axis in range(4):
        low = high = coordinates[0, axis]
        for row in range(len(coordinates)):
            low = min(low, coordinates[row, axis])
            high = max(high, coordinates[row, axis])
        result[axis], result[4 + axis] = low, high
    return result


@compiled
def pack_keys(
    coordinates: _Rows, shift: int, low: _Keys, spans: _Keys, keys: _Keys
) -> bool:  # pragma: no cover - compiled
    """Keys (V,) of coordinates whose x, y, z are first shifted right by `shift`; whether they ascend strictly."""
    ascending = True
    for row in range(len(coordinates)):
        key = coordinates[row, 0] - low[0]
        for axis in range(3):
            key = key * spans[axis] + ((coordinates[row, axis + 1] >> shift) - low[axis + 1])
        keys[row] = key
        ascending &= row == 0 or keys[row - 1] < key
    return ascending


_DIGIT = 14
"""Bits that a pass of `sort_above` sorts by at most: two passes for the voxels of a scan."""


@compiled
def sort_above(values: _Keys, low: int, high: int) -> _Keys:  # pragma: no cover - compiled
    """Values (N,) >= 0, N < 2**32, in the order of their bits `low` to `high`, equal ones as they come.

    A radix sort from the lowest digit up. Indices without a sign spare a test for negative ones at every access.
    """
    passes = max(-(-(high - low) // _DIGIT), 1)
    digit = max(-(-(high - low) // passes), 1)
    buckets = 1 << digit
    mask = np.uint64(buckets - 1)
    ends = np.zeros((passes, buckets), dtype=np.uint32)
    for value in values:
        rest = np.uint64(value) >> np.uint64(low)
        for number in range(passes):
            ends[number, rest & mask] += np.uint32(1)
            rest >>= np.uint64(digit)
    given, taken = values, np.empty_like(values)
    for number in range(passes):
        shift = np.uint64(low + number * digit)
        places = ends[number]
        before = np.uint32(0)
        for bucket in range(buckets):
            before, places[bucket] = before + places[bucket], before
        for value in given:
            digits = (np.uint64(value) >> shift) & mask
            place = places[digits]
            taken[np.uint64(place)] = value
            places[digits] = place + np.uint32(1)
        given, taken = taken, (np.empty_like(values) if number == 0 and passes > 1 else given)
    return given


@compiled
def merge_columns(
    keys: _Keys, asking: _Keys, steps: _Keys, found: _Rows, askers: _Rows, counts: _Keys
) -> None:  # pragma: no cover - compiled
    """Voxels of a sorted level that lie a step from those of a sorted list, three along z for every step.

    Args:
        keys: (V,) ascending. asking: (W,) ascending, keys in the same frame.
        steps: (S,) from a key to that of the lowest of three neighbours.
        found, askers: (3 S, W) written: positions in `keys` and in `asking`, pair after pair; row 3 s + z for step s.
        counts: (3 S,) written: pairs of each row.
    """
    number = len(keys)
    for step in range(len(steps)):
        first, second, third = 3 * step, 3 * step + 1, 3 * step + 2
        a = b = c = 0
        place = 0
        for voxel in range(len(asking)):
            wanted = asking[voxel] + steps[step]
            while place < number and keys[place] < wanted:
                place += 1
            at = place
            if at == number:
                break
            if keys[at] == wanted:
                found[first, a] = at
                askers[first, a] = voxel
                a += 1
                at += 1
            if at < number and keys[at] == wanted + 1:
                found[second, b] = at
                askers[second, b] = voxel
                b += 1
                at += 1
            if at < number and keys[at] == wanted + 2:
                found[third, c] = at
                askers[third, c] = voxel
                c += 1
        counts[first], counts[second], counts[third] = a, b, c


@compiled
def find_above(keys: _Keys, above: _Rows, below: _Rows) -> int:  # pragma: no cover - compiled
    """Pairs of voxels (V,) that follow one another along z, into `above` and `below`; returns how many there are."""
    found = 0
    for voxel in range(len(keys) - 1):
        below[found] = voxel
        above[found] = voxel + 1
        found += keys[voxel + 1] == keys[voxel] + 1
    return found


@compiled
def number_runs(
    ordered: _Keys, bits: int, coordinates: _Rows, parents: _Keys, keys: _Keys, coarse: _Rows
) -> int:  # pragma: no cover - compiled
    """Number equal keys in a sorted list of `key << bits | row`.

    Args:
        coordinates: (V, 4) of the rows.
        parents: (V,) written: the number of each row's key.
        keys, coarse: (V,), (V, 4) written: key and halved coordinates of each number, as many as there are.

    Returns:
        How many different keys there are.
    """
    count = 0
    before = np.int64(-1)
    mask = (np.int64(1) << bits) - 1
    for value in ordered:
        row = value & mask
        if value >> bits != before:
            before = value >> bits
            keys[count] = before
            coarse[count, 0] = coordinates[row, 0]
            for axis in range(1, 4):
                coarse[count, axis] = coordinates[row, axis] >> 1
            count += 1
        parents[row] = count - 1
    return count


@compiled
def split_by_place(
    coordinates: _Rows, parents: _Keys, coarse: _Rows, fine: _Rows, counts: _Keys
) -> None:  # pragma: no cover - compiled
    """Pairs (parent, voxel) by the voxel's place in its parent, z fastest, into the rows of `coarse`, `fine` (8, V)."""
    counts[:] = 0
    for voxel in range(len(coordinates)):
        x, y, z = coordinates[voxel, 1] & 1, coordinates[voxel, 2] & 1, coordinates[voxel, 3] & 1
        place = 4 * x + 2 * y + z
        at = counts[place]
        coarse[place, at] = parents[voxel]
        fine[place, at] = voxel
        counts[place] = at + 1


@compiled
def find_bounds(
    addresses: _Keys, counts: _Keys, rows: int, bounds: _Keys, costs: _Keys
) -> None:  # pragma: no cover - compiled
    """Where blocks of `rows` output rows begin in the ascending list of each offset.

    Args:
        addresses, counts: (K,) of the offsets' int32 output rows.
        bounds: (blocks + 1, K) written.
        costs: (blocks,) written: pairs of each block.
    """
    blocks = len(costs)
    costs[:] = 0
    for offset in range(len(addresses)):
        list_ = carray(_int32_at(addresses[offset]), counts[offset])  # type: ignore[call-arg]
        begin = 0
        for block in range(blocks):
            bounds[block, offset] = begin
            low, high, limit = begin, counts[offset], (block + 1) * rows
            while low < high:
                middle = (low + high) >> 1
                if list_[middle] < limit:
                    low = middle + 1
                else:
                    high = middle
            costs[block] += low - begin
            begin = low
        bounds[blocks, offset] = begin
