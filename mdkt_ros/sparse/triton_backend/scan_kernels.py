"""The Triton kernels that make voxels, levels and kernel maps of the points of one scan, and labels of its logits.

Shapes are those of buffers with room; how many points, voxels and rows there are stays on the device, so that nothing
waits for it and a CUDA graph can hold all of it. A voxel's key is its place in its level, counted along z, y, x with a
margin of one on every side, plus the sizes of all finer levels; so one sort orders all levels, and a neighbour's key
differs by a constant of the level. Written in the language's builtins alone, see `kernels`.

`geometry` (8,) float64: lowest corner, highest corner, 1 / voxel size, voxel size. `levels` (L + 1, 3) int64: smallest
key, what a step along x and y adds; the last row has the first number that is no key.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mdkt_ros.sparse.triton_backend.kernels import lower_bound


@triton.jit
def number_cells(
    points: tl.tensor,
    count: tl.tensor,
    geometry: tl.tensor,
    levels: tl.tensor,
    keys: tl.tensor,
    capacity: tl.tensor,
    last_x: tl.tensor,
    last_y: tl.tensor,
    last_z: tl.tensor,
    LEVELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Keys (L, capacity) of the voxels that a point (capacity, 3) lies in, on every level.

    Args:
        count: (1,) int32 points that there are.
        last_x, last_y, last_z: highest cell of the finest level along each axis.
    """
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = point < tl.load(count)
    x = tl.load(points + 3 * point, mask=there, other=0.0)
    y = tl.load(points + 3 * point + 1, mask=there, other=0.0)
    z = tl.load(points + 3 * point + 2, mask=there, other=0.0)
    low_x = tl.load(geometry).to(tl.float32)
    low_y = tl.load(geometry + 1).to(tl.float32)
    low_z = tl.load(geometry + 2).to(tl.float32)
    there &= (x >= low_x) & (x < tl.load(geometry + 3).to(tl.float32))  # false for NaN
    there &= (y >= low_y) & (y < tl.load(geometry + 4).to(tl.float32))
    there &= (z >= low_z) & (z < tl.load(geometry + 5).to(tl.float32))
    inverse = tl.load(geometry + 6).to(tl.float32)
    # Truncation is floor here; the last voxel takes what rounding pushes beyond it. Others may be anything.
    cell_x = tl.where(there, (x - low_x) * inverse, 0.0).to(tl.int32)
    cell_y = tl.where(there, (y - low_y) * inverse, 0.0).to(tl.int32)
    cell_z = tl.where(there, (z - low_z) * inverse, 0.0).to(tl.int32)
    cell_x = tl.where(cell_x > last_x, last_x, cell_x)
    cell_y = tl.where(cell_y > last_y, last_y, cell_y)
    cell_z = tl.where(cell_z > last_z, last_z, cell_z)
    nowhere = tl.load(levels + 3 * LEVELS)
    for level in tl.static_range(LEVELS):
        of_level = levels + 3 * level
        key = tl.load(of_level) + ((cell_x >> level) + 1) * tl.load(of_level + 1)
        key += ((cell_y >> level) + 1) * tl.load(of_level + 2) + ((cell_z >> level) + 1)
        key = tl.where(there, key, nowhere)
        tl.store(keys + level * capacity + point, key.to(keys.dtype.element_ty), mask=point < capacity)


@triton.jit
def mark_firsts(
    keys: tl.tensor, levels: tl.tensor, firsts: tl.tensor, LEVELS: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """1 (n,) int32 where a key, ascending, is the first of its voxel. n is a multiple of BLOCK."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + place)
    before = tl.load(keys + place - 1, mask=place > 0, other=-1)
    first = (key != before) & (key < tl.load(levels + 3 * LEVELS))
    tl.store(firsts + place, first.to(tl.int32))


@triton.jit
def number_voxels(
    keys: tl.tensor,
    order: tl.tensor,
    numbers: tl.tensor,
    levels: tl.tensor,
    voxel_of_point: tl.tensor,
    voxel_keys: tl.tensor,
    a_point: tl.tensor,
    starts: tl.tensor,
    entries: tl.tensor,
    LEVELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """What the sorted keys say: the voxels of all levels one after the other, and the voxel of every point.

    Args:
        keys: (n,) ascending. order: (n,) int64 their places before the sort. numbers: (n,) int32 sums of `mark_firsts`.
        voxel_of_point: (L, points) int32 number of the voxel among those of all levels, -1 for none.
        voxel_keys: (n,) of each voxel. a_point: (n,) int32 one of its points, as a place before the sort.
        starts: (L + 1,) int32, zeros: number of each level's first voxel, and of all voxels.
        entries: n.
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + place).to(tl.int64)
    before = tl.load(keys + place - 1, mask=place > 0, other=-1).to(tl.int64)
    number = tl.load(numbers + place)
    source = tl.load(order + place)
    there = key < tl.load(levels + 3 * LEVELS)
    tl.store(voxel_of_point + source, tl.where(there, number - 1, -1))
    first = there & (key != before)
    tl.store(voxel_keys + number - 1, key, mask=first)
    tl.store(a_point + number - 1, source.to(tl.int32), mask=first)
    for level in tl.static_range(1, LEVELS):
        lowest = tl.load(levels + 3 * level)
        tl.store(starts + level + 0 * place, number - 1, mask=first & (key >= lowest) & (before < lowest))
    tl.store(starts + LEVELS + 0 * place, number, mask=place == entries - 1)


@triton.jit
def sum_features(
    points: tl.tensor,
    intensity: tl.tensor,
    voxel_of_point: tl.tensor,
    geometry: tl.tensor,
    sums: tl.tensor,
    capacity: tl.tensor,
    room: tl.tensor,
    last_x: tl.tensor,
    last_y: tl.tensor,
    last_z: tl.tensor,
    FEATURES: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Add every point's features to its voxel's (room, CHANNELS + 1) float64, and last a 1.

    Args:
        FEATURES: numbers of 3 bits, places in `voxels.FEATURES`.
    """
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    voxel = tl.load(voxel_of_point + point, mask=point < capacity, other=-1)
    there = (voxel >= 0) & (voxel < room)
    narrow_x = tl.load(points + 3 * point, mask=there, other=0.0)
    narrow_y = tl.load(points + 3 * point + 1, mask=there, other=0.0)
    narrow_z = tl.load(points + 3 * point + 2, mask=there, other=0.0)
    brightness = tl.load(intensity + point, mask=there, other=0.0)
    x, y, z = narrow_x.to(tl.float64), narrow_y.to(tl.float64), narrow_z.to(tl.float64)
    inverse = tl.load(geometry + 6).to(tl.float32)
    size = tl.load(geometry + 7)
    for channel in tl.static_range(CHANNELS):
        if (FEATURES >> (3 * channel)) & 7 == 0:
            value = x
        elif (FEATURES >> (3 * channel)) & 7 == 1:
            value = y
        elif (FEATURES >> (3 * channel)) & 7 == 2:
            value = z
        elif (FEATURES >> (3 * channel)) & 7 == 3:
            finite = (brightness >= -3.4028235e38) & (brightness <= 3.4028235e38)
            value = tl.where(finite, brightness, 0.0).to(tl.float64)
        elif (FEATURES >> (3 * channel)) & 7 == 4:
            value = tl.sqrt(x * x + y * y + z * z)
        elif (FEATURES >> (3 * channel)) & 7 == 5:
            low = tl.load(geometry)
            cell = ((narrow_x - low.to(tl.float32)) * inverse).to(tl.int32)
            value = x - (low + (tl.where(cell > last_x, last_x, cell) + 0.5) * size)
        elif (FEATURES >> (3 * channel)) & 7 == 6:
            low = tl.load(geometry + 1)
            cell = ((narrow_y - low.to(tl.float32)) * inverse).to(tl.int32)
            value = y - (low + (tl.where(cell > last_y, last_y, cell) + 0.5) * size)
        else:
            low = tl.load(geometry + 2)
            cell = ((narrow_z - low.to(tl.float32)) * inverse).to(tl.int32)
            value = z - (low + (tl.where(cell > last_z, last_z, cell) + 0.5) * size)
        tl.atomic_add(sums + voxel * (CHANNELS + 1) + channel, value, mask=there)
    one = tl.full((BLOCK,), 1.0, tl.float64)
    tl.atomic_add(sums + voxel * (CHANNELS + 1) + CHANNELS, one, mask=there)


@triton.jit
def divide_features(sums: tl.tensor, features: tl.tensor, CHANNELS: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """Means (room, CHANNELS) float32 of `sum_features`; 0 where there is no voxel. BLOCK divides the room."""
    voxel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(sums + voxel * (CHANNELS + 1) + CHANNELS)
    count = tl.where(count > 0, count, 1.0)
    for channel in tl.static_range(CHANNELS):
        mean = tl.load(sums + voxel * (CHANNELS + 1) + channel) / count
        tl.store(features + voxel * CHANNELS + channel, mean.to(tl.float32))


@triton.jit
def link_levels(
    voxel_keys: tl.tensor,
    a_point: tl.tensor,
    voxel_of_point: tl.tensor,
    starts: tl.tensor,
    levels: tl.tensor,
    rooms: tl.tensor,
    places: tl.tensor,
    tables: tl.tensor,
    capacity: tl.tensor,
    LEVELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The maps of 2^3 convolutions between levels, both ways. A lane is a voxel; its parent is its point's.

    Args:
        rooms: (L,) int32 voxels that a level has room for. places: (3 L,) int64 where in `tables` the submanifold maps
            of the levels begin, then those to the coarser level, then those back. capacity: points.
    """
    voxel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = voxel < tl.load(starts + LEVELS)
    key = tl.load(voxel_keys + voxel, mask=there, other=0)
    level = tl.full((BLOCK,), 0, tl.int32)
    for above in tl.static_range(1, LEVELS):
        level += (key >= tl.load(levels + 3 * above)).to(tl.int32)
    there &= level < LEVELS - 1
    level = tl.where(there, level, 0)
    row = voxel - tl.load(starts + level)
    room = tl.load(rooms + level)
    coarse_room = tl.load(rooms + level + 1)
    source = tl.load(a_point + voxel, mask=there, other=0) + capacity  # the same point on the next level
    parent = tl.load(voxel_of_point + source, mask=there, other=0) - tl.load(starts + level + 1)
    inner = key - tl.load(levels + 3 * level)
    step_x = tl.load(levels + 3 * level + 1)
    step_y = tl.load(levels + 3 * level + 2)
    # Cells count from 1 in a key.
    x = inner // step_x - 1
    y = inner % step_x // step_y - 1
    z = inner % step_y - 1
    offset = (4 * (x & 1) + 2 * (y & 1) + (z & 1)).to(tl.int32)
    there &= (row < room) & (parent < coarse_room)
    down = tl.load(places + LEVELS + level)
    up = tl.load(places + 2 * LEVELS + level)
    tl.store(tables + down + offset * coarse_room + parent, row, mask=there)
    tl.store(tables + up + offset * room + row, parent, mask=there)


@triton.jit
def find_in_levels(
    voxel_keys: tl.tensor,
    starts: tl.tensor,
    levels: tl.tensor,
    rooms: tl.tensor,
    places: tl.tensor,
    tables: tl.tensor,
    rounds: tl.tensor,
    LEVELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Submanifold maps of all levels: for a column along z of the kernel one binary search, as in `find_neighbours`."""
    across = tl.program_id(1) // 3
    along = tl.program_id(1) % 3
    voxel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    voxels = tl.load(starts + LEVELS)
    there = voxel < voxels
    key = tl.load(voxel_keys + voxel, mask=there, other=0)
    level = tl.full((BLOCK,), 0, tl.int32)
    for above in tl.static_range(1, LEVELS):
        level += (key >= tl.load(levels + 3 * above)).to(tl.int32)
    start = tl.load(starts + level)
    room = tl.load(rooms + level)
    step_x = tl.load(levels + 3 * level + 1)
    step_y = tl.load(levels + 3 * level + 2)
    wanted = key + (across - 1) * step_x + (along - 1) * step_y - 1
    low = lower_bound(voxel_keys, wanted, voxels, rounds, BLOCK)
    row = voxel - start
    target = tables + tl.load(places + level) + (across + 3 * along) * room + row
    for z in tl.static_range(3):
        found = tl.load(voxel_keys + low, mask=low < voxels, other=-1) == wanted + z
        neighbour = low - start
        found &= neighbour < room
        tl.store(target + 9 * z * room, tl.where(found, neighbour, -1), mask=there & (row < room))
        low += found.to(tl.int32)


@triton.jit
def label_points(
    points: tl.tensor,
    logits: tl.tensor,
    voxel_of_point: tl.tensor,
    records: tl.tensor,
    capacity: tl.tensor,
    room: tl.tensor,
    classes: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """What is published of every point: x y z, class, its probability and the distribution's entropy.

    Args:
        points: (capacity, 3) int32, the bits of the coordinates.
        records: (capacity, 6) int32: bits of x y z, class (255 for none), bits of probability and entropy (nats).
    """
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    voxel = tl.load(voxel_of_point + point, mask=point < capacity, other=-1)
    there = (voxel >= 0) & (voxel < room)
    source = logits + voxel * classes
    best = tl.load(source, mask=there, other=0.0)
    index = tl.full((BLOCK,), 0, tl.int32)
    for number in range(1, classes):
        value = tl.load(source + number, mask=there, other=0.0)
        better = (value > best) | (value != value)  # NaN stays, and is no prediction
        index = tl.where(better, number, index)
        best = tl.where(better, value, best)
    total = tl.full((BLOCK,), 0.0, tl.float32)
    weighted = tl.full((BLOCK,), 0.0, tl.float32)
    for number in range(classes):
        shifted = tl.load(source + number, mask=there, other=0.0) - best
        weight = tl.exp(shifted)
        total += weight
        weighted += shifted * weight
    nats = tl.log(total) - weighted / total
    sound = there & (nats < 1e9)  # false for NaN, which anything infinite leads to
    inside = point < capacity
    record = records + point * 6
    for axis in tl.static_range(3):
        tl.store(record + axis, tl.load(points + point * 3 + axis, mask=inside, other=0), mask=inside)
    tl.store(record + 3, tl.where(sound, index, 255), mask=inside)
    tl.store(record + 4, tl.where(sound, 1.0 / total, 0.0).to(tl.int32, bitcast=True), mask=inside)
    tl.store(record + 5, tl.where(sound & (nats > 0), nats, 0.0).to(tl.int32, bitcast=True), mask=inside)
