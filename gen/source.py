"""Where a network comes from: what MODEL means on the command line."""

from pathlib import Path

from gen.builders import BUILDERS, build
from gen.digits import model_path
from gen.errors import GenError
from gen.importer import load_tflite
from gen.table import Table
from gen.table_file import load

__all__ = ["resolve"]


def resolve(model: str | None) -> Table:
    """The network that ``model`` names, as its source describes it: not lowered yet.

    Parameters
    ----------
    model : str or None
        A ``.tflite`` file, a layer table ``NAME.toml``, or a builder such as ``mobilenet_v1:alpha=0.25``; None for the
        built-in digits network.

    Raises
    ------
    GenError
        If it is none of these, or its source refuses it.
    """
    if model is None:
        return load_tflite(model_path())
    suffix = Path(model).suffix.lower()
    if suffix == ".tflite":
        return load_tflite(Path(model))
    if suffix == ".toml":
        return load(model)
    if ":" in model or model in BUILDERS:
        return build(model)
    raise GenError(
        f"{model}: MODEL must be a .tflite file, a layer table (.toml) or a builder "
        f"({', '.join(BUILDERS)}, as in mobilenet_v1:alpha=0.25,resolution=96,classes=2)"
    )
