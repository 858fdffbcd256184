"""Registers in a row, and side by side."""

from amaranth import Module, Signal

__all__ = ["copies", "delay", "events_before"]


def delay(m: Module, name, value, cycles, *, reset_less=True):
    """``value`` of ``cycles`` cycles before; ``reset_less=False`` for bits that mean something after reset."""
    for stage in range(cycles):
        register = Signal(value.shape(), name=f"{name}_{stage + 1}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value


def copies(m: Module, name, value, count):
    """``count`` registers of ``value``, for what is too much, and too far apart, for one of them to drive.

    Their attribute ``copy`` keeps synthesis from merging them again.
    """
    registers = [
        Signal(value.shape(), name=f"{name}_copy_{n}", reset_less=True, attrs={"copy": 1}) for n in range(count)
    ]
    m.d.sync += [register.eq(value) for register in registers]
    return registers


def events_before(m: Module, consumer, events, *names):
    """Those of ``events`` by name, of the cycle before, in registers of the ``consumer``'s own."""
    return [copies(m, f"{consumer}_{name}", events[name], 1)[0] for name in names]
