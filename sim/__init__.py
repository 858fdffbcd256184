"""Golden model (NumPy only), drivers and cocotb benches; shares nothing with hw."""
