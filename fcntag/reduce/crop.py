"""Rows, columns and samples that floor pooling never reads, and the work that remains without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model.document import ModelDocument, Pool


def needed_input(document: ModelDocument, height: int, width: int) -> tuple[int, int]:
    """(H', W'): the part of an [H, W] input, from its top left, on which the same network gives the same features.

    Let a block's full input have n rows, of which the first m are needed, and let a needed row of its pooled output
    be covered by convolution rows below e = (rows - 1) * stride + window. Then m = min(n, e + 1) for a 3x3 kernel, m =
    min(n, e) for 1x1, walking back from the last block, all of whose rows are needed. Columns are the same.

    Why the cropped network needs no padding of its own: say that the first m rows of a block's input are those of the
    full network (true of the cropped input). If m = e + 1, convolution rows below e read rows up to e, all right. If
    m = n, nothing is missing, and there is no row beyond either, since a cropped map is never larger than the full
    one; the zero padding is the real one. Either way the pooled rows that the next block needs are right, whatever
    other rows the map has. The last map is needed whole, and has the full size: no less, as shown, and no more.

    Raises ValueError if the input is too small for the network.
    """
    sizes = document.sizes_from(height, width)
    if min(sizes[-1]) < 1:
        raise ValueError(f"{document.name}: an input of {height} x {width} is too small for its pools")
    return needed_sizes(document, sizes)[0]


def needed_sizes(document: ModelDocument, sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Needed part of the input and of every block's output, given their full sizes."""
    needed = [sizes[-1]]
    for block, full in zip(reversed(document.blocks), reversed(sizes[:-1]), strict=True):
        halo = block.kernel // 2
        rows, columns = (
            min(n, (out - 1) * stride + window + halo)
            for n, out, window, stride in zip(full, needed[-1], block.pool.window, block.pool.stride, strict=True)
        )
        needed.append((rows, columns))
    return needed[::-1]


def covered(out: int, pool: Pool, axis: int) -> int:
    """How many convolution rows ``out`` pooling windows cover: a stride above the window leaves gaps."""
    window, stride = pool.window[axis], pool.stride[axis]
    return (out - 1) * min(stride, window) + window


def needed_macs(document: ModelDocument) -> int:
    total = document.head_multiply_adds()
    for block, (rows, columns) in zip(document.blocks, needed_sizes(document, document.map_sizes())[1:], strict=True):
        outputs = covered(rows, block.pool, 0) * covered(columns, block.pool, 1)
        total += outputs * block.in_channels * block.out_channels * block.kernel**2
    return total


def needed_samples(document: ModelDocument, needed: tuple[int, int]) -> int:
    frontend, n_samples = document.frontend, document.segments.n_samples
    if not frontend.frames_stand_alone:
        return n_samples
    _, n_frames = frontend.rows_and_frames(*needed)
    end = (n_frames - 1) * frontend.hop_length + frontend.frame_length - frontend.pad_left(n_samples)
    if frontend.framing == "center" and frontend.pad_mode == "reflect":
        end = max(end, frontend.n_fft // 2 + 1)  # the first frame reads what is reflected into its padding
    return min(max(end, 1), n_samples)  # a short window at the start of its frame may lie in the padding altogether
