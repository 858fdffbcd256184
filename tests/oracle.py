"""The oracle: LiteRT's reference kernels, which every int8 tensor must equal bit for bit.

LiteRT 1.2.0 precisely: later releases rescale a reference FULLY_CONNECTED in double precision.
"""

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType


def run_reference(model, inputs):
    """Run a .tflite network once on the reference kernels.

    Parameters
    ----------
    model : bytes or path
        The file's content or where it is.
    inputs : dict of str to array, or sequence of array
        One array per input of the network, by the file's tensor names or in the file's order; the batch dimension may
        be left out.

    Returns
    -------
    dict of str to array
        Every tensor by its name in the file, constants and batch dimension included.
    """
    source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
    interpreter = Interpreter(
        **source, experimental_op_resolver_type=OpResolverType.BUILTIN_REF, experimental_preserve_all_tensors=True
    )
    interpreter.allocate_tensors()
    for position, detail in enumerate(interpreter.get_input_details()):
        x = inputs[detail["name"]] if isinstance(inputs, dict) else inputs[position]
        interpreter.set_tensor(detail["index"], np.asarray(x).reshape(detail["shape"]))
    interpreter.invoke()
    return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in interpreter.get_tensor_details()}
