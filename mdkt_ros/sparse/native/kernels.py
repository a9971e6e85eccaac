"""The convolution kernels as LLVM IR: a program of its own for each number of output channels.

A micro-kernel multiplies a tile of pairs by a tile of output channels with the sums in registers (Goto and van de
Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008). The rows of a tile need not lie side by
side: each is addressed by its own pointer, so gathering costs nothing, and its sums are read from and written to the
output row that the pair belongs to, so scattering costs nothing either. Only pairs that there are get multiplied.
"""

from __future__ import annotations

from mdkt_ros.sparse.native.ir import Machine, Sums, Writer
from mdkt_ros.sparse.native.tiles import Tile, tiles

_UNROLL = 4

CONVOLUTION = {
    **dict.fromkeys(("out", "in", "weights", "bias", "add", "in_rows", "out_rows", "bounds"), "ptr"),
    **dict.fromkeys(("out_step", "in_step", "add_step", "inputs", "offsets", "rows", "count", "relu"), "i64"),
}
"""Arguments of a convolution, in their order, with their types."""
KERNEL_GRADIENT = {
    **dict.fromkeys(("gradient", "in", "out_gradient", "in_rows", "out_rows", "counts"), "ptr"),
    **dict.fromkeys(("inputs", "chunk"), "i64"),
}


def convolution(machine: Machine, outputs: int, name: str) -> str:
    """IR of `name(arguments, first, last)`; `arguments` are those of `CONVOLUTION`, 8 bytes each.

    For blocks `first` to `last` of `rows` output rows (of `count`): `out = bias + add`, then offset after offset
    `out[o] += in[i] @ weights` over its pairs (i, o), then `out = max(out, 0)` if `relu` is not 0.

    Arguments, addresses and then int64 numbers:
        out: (count, outputs) float32. in: (any, inputs) float32.
        weights: as `tiles.pack` lays them out. bias: (outputs,) float32.
        add: (count, outputs) float32, or 0; it may be `out`.
        in_rows, out_rows: an address for each offset, of its pairs' int32 rows.
        bounds: (blocks + 1, offsets) int64, where the pairs of a block begin.
        out_step, in_step, add_step: values from a row to the next.
        inputs, offsets, rows, count, relu.
    """
    w = Writer(machine)
    w.take_arguments(CONVOLUTION)
    with w.loop("%first", "%last") as block:
        top = w.op("mul", block, "%rows")
        bottom = w.least(w.op("add", top, "%rows"), "%count")
        _fill(w, outputs, top, bottom)
        begins = w.at("%bounds", w.op("mul", block, "%offsets"), "i64")
        ends = w.at(begins, "%offsets", "i64")
        before = 0
        for tile in tiles(machine, outputs):
            wide = tile.vectors * machine.lanes
            panels = w.at("%weights", w.op("mul", w.op("mul", "%offsets", "%inputs"), before))
            before += wide
            with w.loop(0, "%offsets") as offset:
                panel = w.at(panels, w.op("mul", w.op("mul", offset, "%inputs"), wide))
                pairs = _Pairs(w.load("%in_rows", offset, "ptr"), w.load("%out_rows", offset, "ptr"))
                begin, end = w.load(begins, offset, "i64"), w.load(ends, offset, "i64")
                rest = w.op("srem", w.op("sub", end, begin), tile.rows)
                stop = w.op("sub", end, rest)
                with w.loop(begin, stop, tile.rows) as pair:
                    _multiply(w, tile, tile.rows, pairs, panel, pair, None)
                _multiply_rest(w, tile, pairs, panel, stop, rest)
        with w.when(w.let("icmp ne i64 %relu, 0")), w.loop(top, bottom) as row:
            place = w.at("%out", w.op("mul", row, "%out_step"))
            for first, lanes in w.lane_groups(outputs):
                w.store_vector(w.largest(w.load_vector(place, first, lanes), "zeroinitializer"), place, first, lanes)
    return w.function(f"{name}(ptr %arguments, i64 %first, i64 %last)")


def _fill(w: Writer, outputs: int, top: str, bottom: str) -> None:
    groups = w.lane_groups(outputs)
    bias = [w.load_vector("%bias", first, lanes) for first, lanes in groups]
    nothing = w.let("icmp eq ptr %add, null")
    with w.when(nothing), w.loop(top, bottom) as row:
        place = w.at("%out", w.op("mul", row, "%out_step"))
        for value, (first, lanes) in zip(bias, groups, strict=True):
            w.store_vector(value, place, first, lanes)
    with w.when(w.let(f"xor i1 {nothing}, true")), w.loop(top, bottom) as row:
        place = w.at("%out", w.op("mul", row, "%out_step"))
        added = w.at("%add", w.op("mul", row, "%add_step"))
        for value, (first, lanes) in zip(bias, groups, strict=True):
            w.store_vector(w.add(w.load_vector(added, first, lanes), value), place, first, lanes)


class _Pairs:
    """Pairs of one offset, and where their rows are."""

    def __init__(self, in_rows: str, out_rows: str):
        self.in_rows, self.out_rows = in_rows, out_rows

    def source(self, w: Writer, pair: str) -> str:
        return w.at("%in", w.op("mul nsw", w.load(self.in_rows, pair, "i32"), "%in_step"))

    def place(self, w: Writer, pair: str) -> str:
        return w.at("%out", w.op("mul nsw", w.load(self.out_rows, pair, "i32"), "%out_step"))


def _multiply_rest(w: Writer, tile: Tile, pairs: _Pairs, panel: str, pair: str, rest: str) -> None:
    """The last pairs, fewer than a tile has rows, in the smallest tile that holds them.

    Its other rows repeat the last pair: they write the same sums to the same place.
    """
    below = 0
    last = w.op("sub", w.op("add", pair, rest), 1)
    for rows in sorted({tile.rows - 1, tile.rows // 2, tile.rows // 4} - {0}):
        fits = w.let(f"icmp sle i64 {rest}, {rows}")
        more = w.let(f"icmp sgt i64 {rest}, {below}")
        with w.when(w.let(f"and i1 {fits}, {more}")):
            _multiply(w, tile, rows, pairs, panel, pair, last)
        below = rows


def _multiply(w: Writer, tile: Tile, rows: int, pairs: _Pairs, panel: str, pair: str, last: str | None) -> None:
    """`rows` pairs from `pair` on, none behind `last`, through one tile of columns."""
    groups = w.lane_groups(tile.columns)
    sources, places = [], []
    for row in range(rows):
        index = w.op("add", pair, row)
        if last is not None:
            index = w.least(index, last)
        sources.append(pairs.source(w, index))
        places.append(w.at(pairs.place(w, index), tile.first))
    sums = [[w.load_vector(place, first, lanes) for first, lanes in groups] for place in places]
    wide = tile.vectors * w.lanes

    def step(channel: str, sums: Sums) -> Sums:
        line = w.at(panel, w.op("mul nuw nsw", channel, wide))
        weights = [w.load_vector(line, vector * w.lanes) for vector in range(tile.vectors)]
        result = []
        for source, totals in zip(sources, sums, strict=True):
            value = w.splat(source, channel)
            result.append([w.add_product(total, value, weight) for total, weight in zip(totals, weights, strict=True)])
        return result

    def steps(channel: str, sums: Sums) -> Sums:
        for further in range(_UNROLL):
            sums = step(w.op("add nuw nsw", channel, further), sums)
        return sums

    whole = w.op("and", "%inputs", -_UNROLL)
    sums = w.sum_over(0, whole, _UNROLL, sums, steps)
    sums = w.sum_over(whole, "%inputs", 1, sums, step)
    for place, totals in zip(places, sums, strict=True):
        for value, (first, lanes) in zip(totals, groups, strict=True):
            w.store_vector(value, place, first, lanes)


def kernel_gradient(machine: Machine, outputs: int, name: str) -> str:
    """IR of `name(arguments, first, last)`; `arguments` are those of `KERNEL_GRADIENT`, 8 bytes each.

    For offsets `first` to `last`: `gradient[k, c, d] += in[i, c] * out_gradient[o, d]` over their pairs (i, o), in
    chunks of `chunk` pairs whose rows stay in the first cache while all tiles of the gradient pass over them.
    """
    w = Writer(machine)
    w.take_arguments(KERNEL_GRADIENT)
    with w.loop("%first", "%last") as offset:
        gradient = w.at("%gradient", w.op("mul", offset, w.op("mul", "%inputs", outputs)))
        pairs = w.load("%in_rows", offset, "ptr"), w.load("%out_rows", offset, "ptr")
        count = w.load("%counts", offset, "i64")
        with w.loop(0, count, "%chunk") as begin:
            end = w.least(w.op("add", begin, "%chunk"), count)
            for tile in tiles(machine, outputs):
                top = "0"
                for rows in dict.fromkeys((tile.rows, min(tile.rows, 4), 1)):
                    left = w.op("sub", "%inputs", top)
                    bottom = w.op("sub", "%inputs", w.op("srem", left, rows))
                    with w.loop(top, bottom, rows) as channel:
                        _correlate(w, outputs, tile, rows, gradient, pairs, channel, begin, end)
                    top = bottom
    return w.function(f"{name}(ptr %arguments, i64 %first, i64 %last)")


def _correlate(
    w: Writer,
    outputs: int,
    tile: Tile,
    rows: int,
    gradient: str,
    pairs: tuple[str, str],
    channel: str,
    begin: str,
    end: str,
) -> None:
    """`rows` input channels from `channel` on by one tile of output channels, over the pairs from `begin` to `end`."""
    groups = w.lane_groups(tile.columns)
    top = w.at(w.at(gradient, w.op("mul nsw", channel, outputs)), tile.first)
    places = [w.at(top, row * outputs) for row in range(rows)]
    source, target = w.at("%in", channel), w.at("%out_gradient", tile.first)

    def step(pair: str, sums: Sums) -> Sums:
        values = w.at(source, w.op("mul nsw", w.load(pairs[0], pair, "i32"), "%inputs"))
        line = w.at(target, w.op("mul nsw", w.load(pairs[1], pair, "i32"), outputs))
        factors = [w.load_vector(line, first, lanes) for first, lanes in groups]
        result = []
        for row, totals in enumerate(sums):
            value = w.splat(values, row)
            result.append([w.add_product(total, value, factor) for total, factor in zip(totals, factors, strict=True)])
        return result

    sums = [[w.load_vector(place, first, lanes) for first, lanes in groups] for place in places]
    sums = w.sum_over(begin, end, 1, sums, step)
    for place, totals in zip(places, sums, strict=True):
        for value, (first, lanes) in zip(totals, groups, strict=True):
            w.store_vector(value, place, first, lanes)
