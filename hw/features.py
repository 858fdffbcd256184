"""Feature memory: the tensors, in nine banks that any window finds in one access."""

from amaranth import Module, Mux
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.config import BANKS, WINDOW, CoreConfig
from hw.delay import copies, delay
from hw.memory import SLICE_BITS, FillWord, Ram, block_rams, filled_block_rams, slices_of

__all__ = ["FeatureMemory", "feature_block_rams"]


def feature_block_rams(config: CoreConfig) -> int:
    """Number of block RAMs in the feature memory of a core."""
    return BANKS * filled_block_rams(config.word_bits, config.feature_depth)


class FeatureMemory(wiring.Component):
    """Nine banks of feature words; which holds what is ``gen.layout``'s to say.

    Every bank reads an address of its own: ``r_data`` is word ``r_addr`` of four cycles before. The array writes whole
    words, one for each column of banks, into those that ``w_en`` names, the host slices of words over the fill bus
    while the array rests; the ones can be read from two cycles later on, the others from three. Reads of a word that is
    being written are undefined. No stall, no reset.

    Parameters
    ----------
    config : CoreConfig
    select : sequence of int
        Fill select of each bank's first slice.
    init : sequence of sequence of int
        First words of each bank.
    places : sequence of str
        Where on the die its :func:`feature_block_rams` stand. Empty: anywhere.
    """

    latency = Ram.latency + 1

    def __init__(self, config: CoreConfig, *, select, init, places=()):
        self._config, self._select, self._init, self._places = config, select, init, places
        super().__init__(
            {
                "fill": In(FillWord),
                "r_addr": In(data.ArrayLayout(config.address_bits, BANKS)),
                "r_data": Out(data.ArrayLayout(config.word_bits, BANKS)),
                "w_en": In(BANKS),
                "w_addr": In(data.ArrayLayout(config.address_bits, WINDOW)),
                "w_data": In(data.ArrayLayout(config.word_bits, WINDOW)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        slices = slices_of(config.word_bits)
        # Each column of banks has registers of its own for what it writes, and stands together.
        fills = [FillWord(copy) for copy in copies(m, "fill", self.fill.as_value(), WINDOW)]
        addresses = [
            Mux(fill.write, fill.address, address)[: config.address_bits]
            for fill, address in zip(fills, self.w_addr, strict=True)
        ]
        words = [
            Mux(fill.write, fill.data.replicate(slices), word) for fill, word in zip(fills, self.w_data, strict=True)
        ]
        places = self._places
        for n in range(slices):
            low = n * SLICE_BITS
            width = min(SLICE_BITS, config.word_bits - low)
            count = block_rams(width, config.feature_depth)
            # The banks of a slice side by side, since every lane reads all of them.
            for bank in sorted(range(BANKS), key=lambda bank: bank % WINDOW):
                ours, places = places[:count], places[count:]
                ram = m.submodules[f"bank_{bank}_{n}"] = Ram(
                    width=width, depth=config.feature_depth, primitives=config.primitives, places=ours,
                    init=[value >> low & (1 << width) - 1 for value in self._init[bank]],
                )  # fmt: skip
                filled = fills[bank % WINDOW].writes(self._select[bank] + n, config.feature_depth)
                m.d.comb += [
                    ram.w_en.eq(self.w_en[bank] | filled),
                    ram.w_addr.eq(addresses[bank % WINDOW]), ram.w_data.eq(words[bank % WINDOW][low:]),
                    ram.r_addr.eq(self.r_addr[bank]),
                    self.r_data[bank][low:][:width].eq(delay(m, f"read_{bank}_{n}", ram.r_data, 1)),  # from afar
                ]  # fmt: skip
        return m
