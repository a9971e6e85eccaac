"""The convolution kernels as LLVM IR: a program of its own for each number of output channels.

A micro-kernel multiplies a tile of pairs by a tile of output channels with the sums in registers (Goto and van de
Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008). The rows of a tile need not lie side by
side: each is addressed by its own pointer, so gathering costs nothing, and its sums are read from and written to the
output row that the pair belongs to, so scattering costs nothing either. Only pairs that there are get multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

from mdkt_ros.sparse.native.formats import Format
from mdkt_ros.sparse.native.ir import Machine, Sums, Writer
from mdkt_ros.sparse.native.tiles import Tile, step_width, tiles

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


def convolution(machine: Machine, outputs: int, given: Format, taken: Format, name: str) -> str:
    """IR of `name(arguments, first, last)`; `arguments` are those of `CONVOLUTION`, 8 bytes each.

    For blocks `first` to `last` of `rows` output rows (of `count`): `out = bias + add`, then offset after offset
    `out[o] += in[i] @ weights` over its pairs (i, o), then `out = max(out, 0)` if `relu` is not 0. Sums are float32: in
    `out` itself, or, where its numbers are shorter, on the stack until the block is done.

    Args:
        given: format of `in` and `weights`. taken: that of `out` and `add`.

    Arguments, addresses and then int64 numbers:
        out: (count, outputs). in: (any, inputs), a whole number of steps.
        weights: as `tiles.pack` lays them out. bias: (outputs,) float32.
        add: (count, outputs), or 0; it may be `out`.
        in_rows, out_rows: an address for each offset, of its pairs' int32 rows.
        bounds: (blocks + 1, offsets) int64, where the pairs of a block begin.
        out_step, in_step, add_step: values from a row to the next.
        inputs, offsets, rows, count, relu.
    """
    w = Writer(machine)
    w.take_arguments(CONVOLUTION)
    steps = w.op("sdiv", "%inputs", given.channels)
    width = step_width(machine, outputs)
    room = None if taken.element == "float" else w.room(w.op("mul", "%rows", width))
    with w.loop("%first", "%last") as block:
        top = w.op("mul", block, "%rows")
        bottom = w.least(w.op("add", top, "%rows"), "%count")
        sums = _Sums("%out", "%out_step", "0", outputs) if room is None else _Sums(room, str(width), top, width)
        _fill(w, outputs, taken, sums, top, bottom)
        begins = w.at("%bounds", w.op("mul", block, "%offsets"), "i64")
        ends = w.at(begins, "%offsets", "i64")
        before = 0
        for tile in tiles(machine, outputs):
            panels = w.at("%weights", w.op("mul", w.op("mul", "%offsets", steps), before), w.vector)
            before += tile.vectors
            with w.loop(0, "%offsets") as offset:
                panel = w.at(panels, w.op("mul", w.op("mul", offset, steps), tile.vectors), w.vector)
                pairs = _Pairs(w.load("%in_rows", offset, "ptr"), w.load("%out_rows", offset, "ptr"), given, sums)
                begin, end = w.load(begins, offset, "i64"), w.load(ends, offset, "i64")
                rest = w.op("srem", w.op("sub", end, begin), tile.rows)
                stop = w.op("sub", end, rest)
                with w.loop(begin, stop, tile.rows) as pair:
                    _multiply(w, tile, tile.rows, pairs, panel, steps, pair, None)
                _multiply_rest(w, tile, pairs, panel, steps, stop, rest)
        _finish(w, outputs, taken, sums, top, bottom)
    return w.function(f"{name}(ptr %arguments, i64 %first, i64 %last)")


@dataclass(frozen=True)
class _Sums:
    """Where the float32 sums of a block are: `columns` of them lie `step` apart from row `first` on."""

    memory: str
    step: str
    first: str
    columns: int

    @property
    def is_result(self) -> bool:
        return self.memory == "%out"

    def row(self, w: Writer, row: str) -> str:
        if not self.is_result:
            row = w.op("sub nsw", row, self.first)
        return w.at(self.memory, w.op("mul nsw", row, self.step))


def _fill(w: Writer, outputs: int, taken: Format, sums: _Sums, top: str, bottom: str) -> None:
    groups = w.lane_groups(outputs)
    bias = [w.load_vector("%bias", first, lanes) for first, lanes in groups]
    nothing = w.let("icmp eq ptr %add, null")
    with w.when(nothing), w.loop(top, bottom) as row:
        place = sums.row(w, row)
        for value, (first, _), (_, lanes) in zip(bias, groups, w.lane_groups(sums.columns), strict=True):
            w.store_vector(value, place, first, lanes)
    with w.when(w.let(f"xor i1 {nothing}, true")), w.loop(top, bottom) as row:
        place = sums.row(w, row)
        added = w.at("%add", w.op("mul", row, "%add_step"), taken.element)
        for value, (first, there), (_, lanes) in zip(bias, groups, w.lane_groups(sums.columns), strict=True):
            w.store_vector(w.add(taken.load(w, added, first, there), value), place, first, lanes)


def _finish(w: Writer, outputs: int, taken: Format, sums: _Sums, top: str, bottom: str) -> None:
    """Rectify, and write what is not yet where it belongs."""
    wanted = w.let("icmp ne i64 %relu, 0")
    for rectify in (True,) if sums.is_result else (True, False):
        with w.when(wanted if rectify else w.let(f"xor i1 {wanted}, true")), w.loop(top, bottom) as row:
            source = sums.row(w, row)
            place = w.at("%out", w.op("mul", row, "%out_step"), taken.element)
            for first, lanes in w.lane_groups(outputs):
                value = w.load_vector(source, first, lanes if sums.is_result else None)
                if rectify:
                    value = w.largest(value, "zeroinitializer")
                taken.store(w, value, place, first, lanes)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of one offset, and where their rows are."""

    in_rows: str
    out_rows: str
    given: Format
    sums: _Sums

    def source(self, w: Writer, pair: str) -> str:
        row = w.load(self.in_rows, pair, "i32")
        return w.at("%in", w.op("mul nsw", row, "%in_step"), self.given.element)

    def place(self, w: Writer, pair: str) -> str:
        return self.sums.row(w, w.load(self.out_rows, pair, "i32"))


def _multiply_rest(w: Writer, tile: Tile, pairs: _Pairs, panel: str, steps: str, pair: str, rest: str) -> None:
    """The last pairs, fewer than a tile has rows, in the smallest tile that holds them.

    Its other rows repeat the last pair: they write the same sums to the same place.
    """
    below = 0
    last = w.op("sub", w.op("add", pair, rest), 1)
    for rows in sorted({tile.rows - 1, tile.rows // 2, tile.rows // 4} - {0}):
        fits = w.let(f"icmp sle i64 {rest}, {rows}")
        more = w.let(f"icmp sgt i64 {rest}, {below}")
        with w.when(w.let(f"and i1 {fits}, {more}")):
            _multiply(w, tile, rows, pairs, panel, steps, pair, last)
        below = rows


def _multiply(
    w: Writer, tile: Tile, rows: int, pairs: _Pairs, panel: str, steps: str, pair: str, last: str | None
) -> None:
    """`rows` pairs from `pair` on, none behind `last`, through one tile of columns."""
    given = pairs.given
    columns = tile.columns if pairs.sums.is_result else tile.vectors * w.lanes
    groups = w.lane_groups(columns)
    sources, places = [], []
    for row in range(rows):
        index = w.op("add", pair, row)
        if last is not None:
            index = w.least(index, last)
        sources.append(pairs.source(w, index))
        places.append(w.at(pairs.place(w, index), tile.first))
    sums = [[w.load_vector(place, first, lanes) for first, lanes in groups] for place in places]

    def step(number: str, sums: Sums) -> Sums:
        line = w.at(panel, w.op("mul nuw nsw", number, tile.vectors), w.vector)
        weights = [given.weights(w, line, vector) for vector in range(tile.vectors)]
        result = []
        for source, totals in zip(sources, sums, strict=True):
            value = given.splat(w, source, number)
            result.append(
                [given.add_product(w, total, value, weight) for total, weight in zip(totals, weights, strict=True)]
            )
        return result

    def several(number: str, sums: Sums) -> Sums:
        for further in range(_UNROLL):
            sums = step(w.op("add nuw nsw", number, further), sums)
        return sums

    whole = w.op("and", steps, -_UNROLL)
    sums = w.sum_over(0, whole, _UNROLL, sums, several)
    sums = w.sum_over(whole, steps, 1, sums, step)
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
