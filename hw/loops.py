"""Nested loops as counters."""

from amaranth import Module, Signal

__all__ = ["Loop"]


class Loop:
    """A counter that runs ``limit + 1`` times and starts over.

    ``left`` counts the rounds to come; ``last`` is a register: whether this is the last one. Outer loops advance when
    all inner ones are in their last round and advance.

    Parameters
    ----------
    limit : Value
        Rounds less one, for starting over.
    load : Value
        Starts the loop anew with ``load_limit``.
    advance : Value
        Ends a round.
    """

    def __init__(self, m: Module, name, *, limit, load, load_limit, advance):
        self.last = Signal(name=f"{name}_last")
        self.ends = Signal(name=f"{name}_ends")
        self.left = left = Signal(limit.shape(), name=f"{name}_left")
        m.d.comb += self.ends.eq(advance & self.last)
        with m.If(load):
            m.d.sync += [left.eq(load_limit), self.last.eq(load_limit == 0)]
        with m.Elif(self.ends):
            m.d.sync += [left.eq(limit), self.last.eq(limit == 0)]
        with m.Elif(advance):
            m.d.sync += [left.eq(left - 1), self.last.eq(left == 1)]
