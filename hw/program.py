"""Sequencer: hands an engine its job words in order."""

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.memory import FillMemory, FillWord

__all__ = ["Sequencer"]


class Sequencer(wiring.Component):
    """Reads job words from its memory, from word 0 on after ``start``.

    A job is valid :attr:`period` cycles after ``start``, and again after each transfer. It stays until taken, in the
    memory's own register.

    Parameters
    ----------
    width, depth, select, init, primitives, places
        As :class:`hw.memory.FillMemory`.
    """

    #: Cycles from ``start``, or from a transfer, to the next job.
    period = FillMemory.latency + 2

    def __init__(self, *, width, depth, select, init=(), primitives, places=()):
        self._memory = FillMemory(
            width=width, depth=depth, select=select, init=init, primitives=primitives, places=places
        )
        super().__init__({"fill": In(FillWord), "start": In(1), "jobs": Out(stream.Signature(width))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = self._memory
        m.d.comb += memory.fill.eq(self.fill)
        address = Signal.like(memory.r_addr)
        waited = Signal(self.period - 1)
        m.d.comb += [memory.r_addr.eq(address), self.jobs.payload.eq(memory.r_data)]
        taken = self.jobs.valid & self.jobs.ready
        m.d.sync += waited.eq(waited << 1)
        with m.If(waited[-1]):
            m.d.sync += self.jobs.valid.eq(1)
        with m.If(taken):
            m.d.sync += [address.eq(address + 1), waited.eq(1), self.jobs.valid.eq(0)]
        with m.If(self.start):
            m.d.sync += [address.eq(0), waited.eq(1), self.jobs.valid.eq(0)]
        return m
