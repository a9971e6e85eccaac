"""The Triton kernels that bring kernel maps into the order of tiles, any number of maps in one launch.

`layout` has a row of six int32 for every map: its first slot, its slots (a multiple of 128), its offsets, where its
table begins and how far apart that one's rows are, and where its table in the order of slots begins. `valid` (maps,)
int32 are the output rows that a map really has, `map_of_block` (slots / 128,) the map of every 128 slots. Written in
the language's builtins alone, see `kernels`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def number_patterns(
    tables: tl.tensor, layout: tl.tensor, valid: tl.tensor, map_of_block: tl.tensor, keys: tl.tensor
) -> None:
    """Sort keys (slots,) int32 of output rows: the map, then the place of the row's pattern in the Gray code.

    Bits of a pattern are the offsets under which the row has a neighbour. Slots beyond the valid rows sort last.
    """
    number = tl.load(map_of_block + tl.program_id(0))
    of_map = layout + 6 * number
    row = tl.program_id(0) * 128 + tl.arange(0, 128) - tl.load(of_map)
    there = row < tl.load(valid + number)
    source = tables + tl.load(of_map + 3).to(tl.int64) + row
    pitch = tl.load(of_map + 4)
    pattern = tl.full((128,), 0, tl.int32)
    for offset in range(tl.load(of_map + 2)):
        found = tl.load(source + offset * pitch, mask=there, other=-1) >= 0
        pattern |= found.to(tl.int32) << offset
    place = pattern
    for power in tl.static_range(5):
        place ^= place >> (1 << power)
    key = ((number - 8) << 28) | tl.where(there, place, 1 << 27)  # 16 maps fill the range of int32, in order
    tl.store(keys + tl.program_id(0) * 128 + tl.arange(0, 128), key)


@triton.jit
def fill_tables(
    tables: tl.tensor,
    layout: tl.tensor,
    valid: tl.tensor,
    map_of_block: tl.tensor,
    order: tl.tensor,
    rows: tl.tensor,
    tiled: tl.tensor,
) -> None:
    """Output row of every slot (slots,) int32, -1 in those that have none, and the tables in the order of slots.

    Args:
        order: (slots,) int64 from the sort: the slot before it.
        tiled: int32, (offsets, slots) of one map after the other.
    """
    number = tl.load(map_of_block + tl.program_id(0))
    of_map = layout + 6 * number
    first = tl.load(of_map)
    slots = tl.load(of_map + 1)
    slot = tl.program_id(0) * 128 + tl.arange(0, 128)
    row = (tl.load(order + slot) - first).to(tl.int32)
    there = row < tl.load(valid + number)
    tl.store(rows + slot, tl.where(there, row, -1))
    source = tables + tl.load(of_map + 3).to(tl.int64) + row
    pitch = tl.load(of_map + 4)
    target = tiled + tl.load(of_map + 5).to(tl.int64) + (slot - first)
    for offset in range(tl.load(of_map + 2)):
        tl.store(target + offset * slots, tl.load(source + offset * pitch, mask=there, other=-1))


@triton.jit
def pack_offsets(
    keys: tl.tensor, packed: tl.tensor, counts: tl.tensor, tiles: tl.tensor, ROWS: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Offsets that at least one row of a tile has, see `tiling.TileOffsets`. A lane is a tile.

    Args:
        keys: (tiles * ROWS,) int32, those of `number_patterns` in ascending order.
    """
    tile = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = tile < tiles
    mask = tl.full((BLOCK,), 0, tl.int32)
    for row in range(ROWS):
        place = tl.load(keys + tile * ROWS + row, mask=inside, other=0) & ((1 << 28) - 1)
        mask |= tl.where(place == 1 << 27, 0, place ^ (place >> 1))  # from the place to the Gray code
    count = tl.full((BLOCK,), 0, tl.int32)
    word0 = tl.full((BLOCK,), 0, tl.int64)
    word1 = tl.full((BLOCK,), 0, tl.int64)
    word2 = tl.full((BLOCK,), 0, tl.int64)
    for offset in tl.static_range(27):
        has = (mask >> offset) & 1
        term = (has * offset).to(tl.int64) << (5 * (count % 12)).to(tl.int64)
        word0 |= tl.where(count < 12, term, 0)
        word1 |= tl.where((count >= 12) & (count < 24), term, 0)
        word2 |= tl.where(count >= 24, term, 0)
        count += has
    tl.store(packed + 3 * tile, word0, mask=inside)
    tl.store(packed + 3 * tile + 1, word1, mask=inside)
    tl.store(packed + 3 * tile + 2, word2, mask=inside)
    tl.store(counts + tile, count, mask=inside)
