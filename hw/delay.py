"""Registers in a row."""

from amaranth import Module, Signal

__all__ = ["delay"]


def delay(m: Module, name, value, cycles, *, reset_less=True):
    """``value`` of ``cycles`` cycles before; ``reset_less=False`` for bits that mean something after reset."""
    for stage in range(cycles):
        register = Signal(value.shape(), name=f"{name}_{stage + 1}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value
