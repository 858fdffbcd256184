"""Carry chains as place and route takes them without cells of its own at both ends.

nextpnr-ecp5 adds a cell to a chain that begins with a constant, to feed it in, and another to one whose last carry has
a net, to lead it out, whether that net leads anywhere or not: four LUTs a chain. Here the chain's first half cell makes
the constant, and the last carry has a net only where something takes it.
"""

from collections import Counter

__all__ = ["trim_carry_chains"]

_INPUTS = "ABCD"


def trim_carry_chains(module: dict) -> None:
    """Rewrite the CCU2C of a netlist's ``module``, as Yosys writes it to JSON, in place.

    A chain is left as it is where something but the next cell takes one of its carries.
    """
    cells = module["cells"]
    users = Counter(
        bit
        for cell in cells.values()
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == "input"
        for bit in bits
        if isinstance(bit, int)  # no constant
    )
    users.update(bit for port in module["ports"].values() if port["direction"] != "input" for bit in port["bits"])
    carries = {name: cell for name, cell in cells.items() if cell["type"] == "CCU2C"}
    following = {cell["connections"]["CIN"][0]: name for name, cell in carries.items()}
    for first, cell in carries.items():
        if cell["connections"]["CIN"][0] not in ("0", "1"):
            continue
        names = [first]
        while users[carry := carries[names[-1]]["connections"]["COUT"][0]] == 1 and carry in following:
            names.append(following[carry])
        if not users[carry] and all(_plain(carries[name]) for name in names):
            _shift(cells, names, users)
    for cell in cells.values():
        if cell["type"] == "CCU2C" and not users[cell["connections"]["COUT"][0]]:
            cell["connections"]["COUT"] = ["x"]


def _plain(cell):
    return cell["parameters"]["INJECT1_0"] == cell["parameters"]["INJECT1_1"] == "NO"


def _without_operands(lookup):
    """Half a cell whose inputs are all 1 and whose sum nobody reads."""
    return {**dict.fromkeys(_INPUTS, "1"), "S": "x", "INIT": f"{lookup:016b}"}


def _shift(cells, names, users):
    """Move a chain's bits on by half a cell, behind one that makes the constant which the chain began with."""
    chain = [cells[name] for name in names]
    begin = chain[0]["connections"]["CIN"][0]
    # A carry is the LUT's lowest four entries where the LUT gives 0; an input of 1 chooses among the highest four.
    halves = [_without_operands(0xF if begin == "1" else 0)]
    for cell in chain:
        for half in "01":
            bits = {name: cell["connections"].get(name + half, ["x"])[0] for name in (*_INPUTS, "S")}
            halves.append({**bits, "INIT": cell["parameters"]["INIT" + half]})
    if not users[halves[-1]["S"]]:
        halves.pop()
    if len(halves) % 2:
        halves.append(_without_operands(0))
    if len(halves) > 2 * len(chain):
        last = names[-1] + "_last"
        cells[last] = {
            **chain[-1],
            "attributes": dict(chain[-1]["attributes"]),
            "parameters": dict(chain[-1]["parameters"]),
            "connections": {**chain[-1]["connections"], "CIN": chain[-1]["connections"]["COUT"], "COUT": ["x"]},
        }
        users.update(cells[last]["connections"]["CIN"])
        chain.append(cells[last])
    chain[0]["connections"]["CIN"] = ["x"]
    for number, cell in enumerate(chain):
        for half in "01":
            bits = dict(halves[2 * number + int(half)])
            cell["parameters"]["INIT" + half] = bits.pop("INIT")
            cell["connections"] |= {name + half: [bit] for name, bit in bits.items()}
