"""The Triton kernels. Only `load` imports this module.

They use the language's builtins alone, none of its functions that are Triton code themselves (`tl.cdiv`, `tl.zeros`):
those are compiled or interpreted according to the environment in which *Triton* was imported, which may have been
before TRITON_INTERPRET was set.

Strides and channels are annotated `tl.tensor`, which they are in a kernel. Annotated `int` they would stay variables
even where they are 1, and rows whose channels are not known to lie side by side are loaded without a pipeline: a tenth
of the speed on an H100.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def lower_bound(keys: tl.tensor, wanted: tl.tensor, count: int, rounds: int, BLOCK: tl.constexpr) -> tl.tensor:
    """(BLOCK,) int32: how many of `count` ascending keys lie below each wanted one. `rounds`: bits of `count`."""
    low = tl.full((BLOCK,), 0, tl.int32)
    high = tl.full((BLOCK,), 0, tl.int32) + count
    for _ in range(rounds):
        middle = (low + high) // 2
        below = tl.load(keys + middle, mask=low < high, other=0) < wanted
        after = tl.where(below, high, middle)
        low = tl.where(below & (low < high), middle + 1, low)
        high = after
    return low


@triton.jit(do_not_specialize=["voxels", "queries", "rounds", "step_x", "step_y"])
def find_neighbours(
    keys: tl.tensor,
    order: tl.tensor,
    centres: tl.tensor,
    table: tl.tensor,
    voxels: int,
    queries: int,
    rounds: int,
    step_x: int,
    step_y: int,
    BLOCK: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    OWN: tl.constexpr,
) -> None:
    """Rows of the voxels under one column along z of 3^3 kernels: one binary search, since they lie side by side.

    Args:
        keys: (voxels,) int64, ascending; a step along z adds 1. See `mdkt_ros.sparse.level`.
        order: (voxels,) int64 row of each key; not read unless HAS_ORDER.
        centres: (queries,) int64 keys of the kernels' middles.
        table: (27, queries) int32, contiguous, x fastest; all of it is written, -1 where there is no voxel.
        rounds: bits of `voxels`.
        step_x, step_y: what a step along x and y adds to a key.
        OWN: the middles are the voxels themselves; the table's columns are in the order of their rows, too.
    """
    x = tl.program_id(1) // 3
    y = tl.program_id(1) % 3
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    asked = query < queries
    first = tl.load(centres + query, mask=asked, other=0) + ((x - 1).to(tl.int64) * step_x + (y - 1) * step_y - 1)
    low = lower_bound(keys, first, voxels, rounds, BLOCK)
    column = query
    if HAS_ORDER and OWN:
        column = tl.load(order + query, mask=asked, other=0).to(tl.int32)
    for z in tl.static_range(3):
        found = tl.load(keys + low, mask=low < voxels, other=-1) == first + z
        row = tl.where(found, low, -1)
        if HAS_ORDER:
            row = tl.load(order + low, mask=found, other=-1).to(tl.int32)
        tl.store(table + (x + 3 * y + 9 * z) * queries + column, row, mask=asked)
        low += found.to(tl.int32)


@triton.jit(do_not_specialize=["slots"])
def gather_gemm_scatter(
    features: tl.tensor,
    kernel: tl.tensor,
    bias: tl.tensor,
    add: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    table: tl.tensor,
    packed: tl.tensor,
    counts: tl.tensor,
    slots: int,
    in_channels: tl.tensor,
    out_channels: tl.tensor,
    feature_row_stride: tl.tensor,
    feature_channel_stride: tl.tensor,
    kernel_offset_stride: tl.tensor,
    kernel_in_stride: tl.tensor,
    kernel_out_stride: tl.tensor,
    add_row_stride: tl.tensor,
    out_row_stride: tl.tensor,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ADD: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    SPLITS: tl.constexpr,
    WHOLE_IN: tl.constexpr,
    WHOLE_OUT: tl.constexpr,
    LARGE: tl.constexpr,
) -> None:
    """One tile of the output, (BLOCK_ROWS, BLOCK_OUT): an implicit GEMM over the offsets that the tile has.

    Offsets and blocks of input channels are one loop, so that the compiler pipelines loads across offsets: a thin layer
    has a single block of channels. What a step gathers is known two steps before, because a load whose address is
    loaded in the same step costs the pipeline its depth; and offsets come from registers for the same reason.
    Consecutive programs share their rows, so that the second finds them in the cache.

    With SPLITS above 1 as many programs share the steps of a tile, and each writes the sum of its own: coarse levels
    have fewer tiles than a GPU has multiprocessors, and the tile with the most offsets is what all wait for.

    Args:
        features, kernel: (in_count, Cin) and (K, Cin, Cout) of any strides, of one dtype.
        bias: (Cout,); not read unless HAS_BIAS.
        add: (out_count, Cout), the channels of a row side by side; not read unless HAS_ADD. It may be `out`.
        out: (out_count, Cout), the channels of a row side by side.
            With SPLITS above 1: (SPLITS, slots, Cout) float32 sums in the order of the slots, contiguous, without bias
            and what comes after it; `sum_splits` adds that.
        rows, table, packed, counts: see `tiling`.
        PRECISION: "ieee" or "tf32", how products of float32 are made.
        WIDEN: multiply as float32, because Triton's interpreter multiplies the bit patterns of bfloat16.
        WHOLE_IN, WHOLE_OUT: the channels fill their blocks, and none has to be masked.
        LARGE: places in `features` need 64 bits.
    """
    out_blocks = (out_channels + BLOCK_OUT - 1) // BLOCK_OUT
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS // out_blocks
    slot = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = (tl.program_id(0) // SPLITS % out_blocks) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    in_blocks = (in_channels + BLOCK_IN - 1) // BLOCK_IN
    total = tl.full((BLOCK_ROWS, BLOCK_OUT), 0.0, tl.float32)
    word0 = tl.load(packed + tile * 3)
    word1 = tl.load(packed + tile * 3 + 1)
    word2 = tl.load(packed + tile * 3 + 2)
    steps = tl.load(counts + tile) * in_blocks
    first = split * steps // SPLITS
    offset = unpack_offset(word0, word1, word2, first // in_blocks)
    source = tl.load(table + offset * slots + slot)
    next_offset = unpack_offset(word0, word1, word2, (first + 1) // in_blocks)
    next_source = tl.load(table + next_offset * slots + slot)
    # Values handed on unchanged, from one step to the next but one, would keep the compiler from pipelining the loop.
    nothing = tl.program_id(1)
    for step in range(first, (split + 1) * steps // SPLITS):
        channel = (step % in_blocks) * BLOCK_IN + tl.arange(0, BLOCK_IN)
        row = source.to(tl.int64) if LARGE else source
        gathered = features + row[:, None] * feature_row_stride + channel[None, :] * feature_channel_stride
        block = (
            kernel
            + offset * kernel_offset_stride
            + channel[:, None] * kernel_in_stride
            + column[None, :] * kernel_out_stride
        )
        if WHOLE_IN:
            inputs = tl.load(gathered, mask=(source >= 0)[:, None], other=0.0)
        else:
            inputs = tl.load(gathered, mask=(source >= 0)[:, None] & (channel < in_channels)[None, :], other=0.0)
        if WHOLE_IN and WHOLE_OUT:
            matrix = tl.load(block)
        else:
            used = (channel < in_channels)[:, None] & (column < out_channels)[None, :]
            matrix = tl.load(block, mask=used, other=0.0)
        offset = next_offset + nothing
        source = next_source + nothing
        next_offset = unpack_offset(word0, word1, word2, (step + 2) // in_blocks)
        next_source = tl.load(table + next_offset * slots + slot)
        if WIDEN:
            inputs = inputs.to(tl.float32)
            matrix = matrix.to(tl.float32)
        total = tl.dot(inputs, matrix, total, input_precision=PRECISION)
    if SPLITS > 1:
        place = (split * slots + slot).to(tl.int64)[:, None] * out_channels + column[None, :]
        tl.store(out + place, total, mask=(column < out_channels)[None, :])
    else:
        row = tl.load(rows + slot).to(tl.int64)
        finish(
            total, row, column, bias, add, out, out_channels, add_row_stride, out_row_stride, HAS_BIAS, HAS_ADD, RELU
        )  # fmt: skip


@triton.jit
def unpack_offset(word0: tl.tensor, word1: tl.tensor, word2: tl.tensor, place: tl.tensor) -> tl.tensor:
    """One of a tile's offsets, see `tiling.TileOffsets`."""
    word = tl.where(place < 12, word0, tl.where(place < 24, word1, word2))
    return ((word >> (5 * (place % 12))) & 31).to(tl.int32)


@triton.jit(do_not_specialize=["slots"])
def sum_splits(
    sums: tl.tensor,
    bias: tl.tensor,
    add: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    slots: int,
    out_channels: tl.tensor,
    add_row_stride: tl.tensor,
    out_row_stride: tl.tensor,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ADD: tl.constexpr,
    RELU: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    """Add up the sums of the programs that shared a tile, in their order, and end as `gather_gemm_scatter` does.

    Args:
        sums: (SPLITS, slots, Cout) float32, contiguous.
        bias, add, out, rows: as there.
    """
    slot = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    row = tl.load(rows + slot, mask=slot < slots, other=-1).to(tl.int64)
    written = (row >= 0)[:, None] & (column < out_channels)[None, :]
    total = tl.full((BLOCK_ROWS, BLOCK_OUT), 0.0, tl.float32)
    for split in tl.static_range(SPLITS):
        place = (split * slots + slot).to(tl.int64)[:, None] * out_channels + column[None, :]
        total += tl.load(sums + place, mask=written, other=0.0)
    finish(total, row, column, bias, add, out, out_channels, add_row_stride, out_row_stride, HAS_BIAS, HAS_ADD, RELU)


@triton.jit
def finish(
    total: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    bias: tl.tensor,
    add: tl.tensor,
    out: tl.tensor,
    out_channels: tl.tensor,
    add_row_stride: tl.tensor,
    out_row_stride: tl.tensor,
    HAS_BIAS: tl.constexpr,
    HAS_ADD: tl.constexpr,
    RELU: tl.constexpr,
) -> None:
    """Bias, what is to be added and the rectifier, then the output; rows of -1 (int64) and columns beyond it are none.

    The pointers and strides are those of `gather_gemm_scatter`.
    """
    written = (row >= 0)[:, None] & (column < out_channels)[None, :]
    if HAS_BIAS:
        total += tl.load(bias + column, mask=column < out_channels, other=0.0).to(tl.float32)[None, :]
    if HAS_ADD:
        before = tl.load(add + row[:, None] * add_row_stride + column[None, :], mask=written, other=0.0)
        total += before.to(tl.float32)
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # keeps NaN
    tl.store(out + row[:, None] * out_row_stride + column[None, :], total.to(out.dtype.element_ty), mask=written)


@triton.jit(do_not_specialize=["capacity", "splits"])
def kernel_gradient(
    features: tl.tensor,
    out_gradient: tl.tensor,
    partial: tl.tensor,
    in_rows: tl.tensor,
    out_rows: tl.tensor,
    counts: tl.tensor,
    capacity: int,
    splits: int,
    in_channels: tl.tensor,
    out_channels: tl.tensor,
    feature_row_stride: tl.tensor,
    feature_channel_stride: tl.tensor,
    gradient_row_stride: tl.tensor,
    gradient_channel_stride: tl.tensor,
    BLOCK_PAIRS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:
    """One block of one offset's gradient, (BLOCK_IN, BLOCK_OUT), over one share of the offset's pairs.

    The shares are summed afterwards in their order; atomic additions would give other bits in every run. As above, a
    step loads the rows of the next one. The inputs are loaded as they are multiplied, channel by pair: of a block that
    is transposed afterwards, the compiler pipelines one factor alone.

    Args:
        features, out_gradient: (in_count, Cin) and (out_count, Cout) of any strides, of one dtype.
        partial: (splits, K, Cin, Cout) float32, contiguous; all of it is written.
        in_rows, out_rows, counts, capacity: see `pairs`.
        PRECISION, WIDEN: as above.
    """
    out_blocks = (out_channels + BLOCK_OUT - 1) // BLOCK_OUT
    in_channel = (tl.program_id(1) // out_blocks) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    out_channel = (tl.program_id(1) % out_blocks) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    offset = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    count = tl.load(counts + offset)
    share = (count + splits * BLOCK_PAIRS - 1) // (splits * BLOCK_PAIRS) * BLOCK_PAIRS
    total = tl.full((BLOCK_IN, BLOCK_OUT), 0.0, tl.float32)
    pair = split * share + tl.arange(0, BLOCK_PAIRS)
    source = tl.load(in_rows + offset * capacity + pair, mask=pair < count, other=-1)
    target = tl.load(out_rows + offset * capacity + pair, mask=pair < count, other=-1)
    for _ in range(share // BLOCK_PAIRS):
        inputs = tl.load(
            features + in_channel[:, None] * feature_channel_stride + source.to(tl.int64)[None, :] * feature_row_stride,
            mask=(in_channel < in_channels)[:, None] & (source >= 0)[None, :],
            other=0.0,
        )
        gradients = tl.load(
            out_gradient
            + target.to(tl.int64)[:, None] * gradient_row_stride
            + out_channel[None, :] * gradient_channel_stride,
            mask=(target >= 0)[:, None] & (out_channel < out_channels)[None, :],
            other=0.0,
        )
        pair += BLOCK_PAIRS
        source = tl.load(in_rows + offset * capacity + pair, mask=pair < count, other=-1)
        target = tl.load(out_rows + offset * capacity + pair, mask=pair < count, other=-1)
        if WIDEN:
            inputs = inputs.to(tl.float32)
            gradients = gradients.to(tl.float32)
        total = tl.dot(inputs, gradients, total, input_precision=PRECISION)
    first = (split * (tl.num_programs(0) // splits) + offset).to(tl.int64) * in_channels * out_channels
    tl.store(
        partial + first + in_channel[:, None] * out_channels + out_channel[None, :],
        total,
        mask=(in_channel < in_channels)[:, None] & (out_channel < out_channels)[None, :],
    )


INTERPRETED = not isinstance(gather_gemm_scatter, triton.JITFunction)
"""Whether TRITON_INTERPRET was set when this module was imported."""
