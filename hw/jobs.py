"""Job words: what the sequencers read from their memories, one word a layer or a row.

Counts are stored less one. The plan writes these words, the engines obey them.
"""

from amaranth import signed, unsigned
from amaranth.lib import data, enum

from hw.config import WINDOW, CoreConfig
from hw.requantise import ActivationBounds

__all__ = ["JobKind", "WindowMode", "array_job", "layer_job", "row_job", "window_job_bits"]


class JobKind(enum.Enum, shape=2):
    """First bits of a window job; nothing follows an END, which a memory that was never written reads as."""

    END = 0
    LAYER = 1
    ROW = 2


class WindowMode(enum.Enum, shape=2):
    """What becomes of a window: products and sums per channel, its taps in their order, or its bytes packed.

    RESIDUAL is WIDE, but for the residual adder: its words pass by the patch buffer.
    """

    DEPTHWISE = 0
    WIDE = 1
    NARROW = 2
    RESIDUAL = 3


def _index(depth):
    return unsigned(max(1, (depth - 1).bit_length()))


def layer_job(config: CoreConfig) -> data.StructLayout:
    """What holds for all rows of a layer, for the window generator."""
    address = unsigned(config.address_bits)
    return data.StructLayout(
        {
            "kind": JobKind,
            "mode": WindowMode,
            "beats": 6,  # cycles a window is held: to pass on all taps (wide), for patch words to fill (narrow), 1
            "taps": 4,  # that go on in each of them (wide), not less one; 1
            "last_taps": 4,  # in the last of them, not less one
            "whole": 1,  # whether each of them fills a patch word (narrow)
            "channels": 2,  # of a narrow tensor
            "groups": 9,  # channel groups of a pixel
            "tiles_x": 4,  # windows side by side that cover the kernel
            "tiles_y": 4,
            "step": 2,  # columns from a window to the next beside it, 3 at most, not less one; 0: the same again
            "stride": 1,  # across
            "width": 10,  # of the source tensor, not less one
            "height": 10,
            "pixels": 10,  # in a row of results
            "x": signed(11),  # of the first window's left column
            "column_base": address,  # of that column's group of three
            "column_residue": 2,  # that column modulo 3
            "column_pitch": address,  # words from a group of three columns to the next
            "row_pitch": address,  # words from a group of three rows to the next
            "pad": signed(8),
            "patch_words": _index(config.patch_depth),  # of a pixel, not less one
            "coefficients": _index(config.coefficient_depth),
            "scales": _index(config.depthwise_scale_depth),
            "bounds": ActivationBounds,
            **({"maximum": 1} if config.max_pool else {}),  # of the window, in place of products and sums
            **({"paired": 1} if config.pixels > 1 else {}),  # whether two pixels share a patch
        }
    )


def row_job(config: CoreConfig) -> data.StructLayout:
    """One row of results, for the window generator."""
    return data.StructLayout(
        {
            "kind": JobKind,
            "written": 16,  # rows that the array must have written, modulo 2**16
            "row_base": data.ArrayLayout(config.address_bits, WINDOW),  # for rows 0, 1, 2 modulo 3
            "row_residue": 2,  # the first row modulo 3
            "high_half": WINDOW,  # whether row 0, 1, 2 of the window lies in the high half of narrow words
            "y": signed(11),  # of the window's top row
        }
    )


def window_job_bits(config: CoreConfig) -> int:
    """Width of the window generator's job memory."""
    return max(layer_job(config).size, row_job(config).size)


def _residual_fields(config):
    return {
        "residual": _index(config.residual_scale_depth),  # the residual adder's parameters; 0: nothing added
        "idle": _index(config.residual_beats),  # how many of a sum's last words are nothing, so that results lie apart
    }


def array_job(config: CoreConfig) -> data.StructLayout:
    """One row of results, for the array and for what writes them."""
    return data.StructLayout(
        {
            "pixels": 10,  # or pairs of them
            "words": _index(config.patch_depth // 2),  # of a sum: a pixel's patch words, two of which the buffer holds
            "freed": _index(config.patch_depth),  # what the window generator gets back for a pixel, not less one
            "groups": 9,  # output groups
            "weights": _index(config.weight_depth),
            "scales": _index(config.scale_depth),
            "address": config.address_bits,  # of the row's first word
            "column_pitch": config.address_bits,
            "row_residue": 2,
            "column_residue": 2,  # of the first pixel
            "last": 1,  # of the inference
            "bounds": ActivationBounds,
            **({"paired": 1, "odd": 1} if config.pixels > 1 else {}),  # pairs; whether the last is one pixel only
            **(_residual_fields(config) if config.residual_lanes else {}),
        }
    )
