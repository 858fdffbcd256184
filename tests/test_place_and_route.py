"""What nextpnr is asked for, and what is read from it: with a stand-in."""

import pytest
from stand_ins import make_plan, make_report, nextpnr, placed

from gen import tools
from gen.build import build
from gen.errors import GenError
from gen.place_and_route import PATIENCE, Routed, RouterWatch, nextpnr_phase
from gen.placement import Placement


@pytest.mark.parametrize(
    ("line", "phase"),
    (
        ("Info: Packing carries...\n", "packing carries"),
        ("Info:     at iteration #7, type ALL: wirelen solved = 1, spread = 2\n", "placing, iteration 7"),
        ("Info:   at iteration #5: temp = 0.000000, timing cost = 65\n", "refining the placement, iteration 5"),
        ("Info:     iter=12 wires=99 overused=3 overuse=4 tmgfail=0\n", "routing, iteration 12, 3 wires overused"),
        ("Info: Running router1 to check that route is legal...\n", "checking the routes"),
        ("Warning: something else\n", None),
    ),
)
def test_nextpnr_phase(line, phase):
    assert nextpnr_phase(line) == phase


def router_line(iteration, overused, failed):
    return f"Info:     iter={iteration} wires=4000 overused={overused} overuse=9 tmgfail={failed} archfail=NA\n"


def test_router_watch_ends_what_comes_no_nearer():
    """It counts wires of both kinds, from the iteration with the fewest on."""
    watch = RouterWatch()
    for iteration, (overused, failed) in enumerate(((5000, 0), (40, 10), (49, 0), (48, 1), (900, 900))):
        watch(router_line(iteration, overused, failed))
    watch("Info: something else\n")
    for iteration in range(5, 2 + PATIENCE):
        watch(router_line(iteration, iteration % 7, 49))
    watch(router_line(2 + PATIENCE, 0, 48))
    watch(router_line(1 + 2 * PATIENCE, 48, 0))
    with pytest.raises(tools.StopTool):
        watch(router_line(2 + 2 * PATIENCE, 48, 0))


def test_router_watch_begins_anew_at_an_end():
    """Where ways cannot be bound, the router goes on from more."""
    watch = RouterWatch()
    for iteration, overused in enumerate((9, 0, 120)):
        watch(router_line(iteration, overused, 0))
    for iteration in range(3, 2 + PATIENCE):
        watch(router_line(iteration, 120, 0))
    with pytest.raises(tools.StopTool):
        watch(router_line(2 + PATIENCE, 120, 0))


def test_router_watch_lets_go_on_what_only_looks_for_ways():
    watch = RouterWatch()
    for iteration in range(3 * PATIENCE):
        watch(f"Info:     iter={iteration} wires=4000 overused=7 overuse=9 archfail=NA\n")


def test_routed_reads_the_cores_clock_path_and_cells():
    routed = Routed.from_report(3, 130.5, make_report(123.4))
    assert (routed.seed, routed.promised_mhz, routed.asked_mhz, routed.fmax_mhz) == (3, 130.5, 110, 123.4)
    assert routed.resources == {
        "lut": {"used": 7, "available": 83640},
        "ff": {"used": 8, "available": 83640},
        "mult": {"used": 9, "available": 156},
        "ebr": {"used": 10, "available": 208},
    }
    assert routed.critical_path == {
        "from": "core.a.Q",
        "to": "core.b.DI",
        "delay_ns": 8.075,
        "logic_ns": 0.775,
        "routing_ns": 7.3,
    }


def test_routed_refuses_a_slow_serial_port_and_a_missing_clock():
    with pytest.raises(GenError, match=r"^clock \$glbnet\$i reaches 24.90 MHz of 25.00 MHz$"):
        Routed.from_report(1, 110, make_report(serial_mhz=24.9))
    with pytest.raises(GenError, match="^nextpnr reports no clock 'core_clk'"):
        Routed.from_report(1, 110, make_report(core_net="other_clk"))


def test_settings_without_an_option(fake_tools, tmp_path):
    """The placed netlist carries them: nets go round a crowd, by the best way, and nothing is annealed."""
    settings = {
        "router2/bbMargin/x": 64, "router2/bbMargin/y": 32, "router2/estimateWeight": "0.6",
        "router2/initCurrCongWeight": "8", "placer1/startTemp": "0.00000001",
    }  # fmt: skip
    body = f"""
report = {make_report()!r}
design = json.loads(pathlib.Path(args[args.index("--json") + 1]).read_text())
if design["modules"]["top"]["settings"] != {settings!r}:
    sys.exit("ERROR: other settings")
"""
    fake_tools("nextpnr-ecp5", nextpnr(body))
    assert build(make_plan(), directory=tmp_path, verify=False)["timing_met"]


def test_the_best_of_several_seeds_is_kept(fake_tools, tmp_path):
    reports = {seed: make_report(fmax) for seed, fmax in ((1, 101.0), (2, 131.0), (4, 131.0))}
    fake_tools("nextpnr-ecp5", nextpnr(f"report = {reports!r}.get(seed) or sys.exit('ERROR: seed 3 does not route')"))
    report = build(make_plan(), directory=tmp_path, verify=False, seeds=4)
    assert (report["seed"], report["fmax_mhz"]) == (2, 131.0)
    assert "seed 3 does not route" in (tmp_path / "nextpnr-3-route-1.log").read_text()


@pytest.mark.parametrize(
    ("routable", "asked", "reached"),
    (
        # Of 80 to 101 % of what the placement promises, 118.8 MHz, a third and two thirds: the PLL's next clocks.
        (130, ["103.12", "110.71", "112.5", "116.67"], 117),
        (108, ["103.12", "105.36", "107.5", "110.71 stopped"], 108),
        (106, ["103.12", "105.36", "107.5 stopped", "110.71 stopped"], 106),
        (102, ["100.0", "103.12 stopped", "110.71 stopped", "97.5"], 101),
        (60, ["100.0 stopped", "103.12 stopped", "110.71 stopped", "97.5 at most", "97.5 stopped"], 60),
    ),
)
def test_what_is_asked_for_follows_placement_and_router(fake_tools, tmp_path, routable, asked, reached):
    asking(fake_tools, 84, routable)
    report = build(make_plan(), directory=tmp_path, verify=False)
    assert sorted((tmp_path / "asked").read_text().splitlines()) == asked
    assert report["fmax_mhz"] == reached
    assert report["clock_mhz_promised"] == pytest.approx(Placement(placed(84)).clock_mhz)


@pytest.mark.parametrize(
    ("routable", "asked"),
    (
        (130, ["119.0"]),
        (118, ["103.12", "110.71", "119.0 stopped"]),
    ),
)
def test_a_clock_to_insist_on(fake_tools, tmp_path, routable, asked):
    """Whatever the placement promises; but the router may not do it."""
    asking(fake_tools, 100, routable)
    build(make_plan(), directory=tmp_path, verify=False, clock_mhz=119)
    assert sorted((tmp_path / "asked").read_text().splitlines()) == asked


def test_the_router_may_find_less_than_it_was_asked_for(fake_tools, tmp_path):
    """Then it is asked for what the PLL has in between, and the fastest is kept."""
    asking(fake_tools, 84, 130, "118.5 if asked == 119 else 118.9")
    report = build(make_plan(), directory=tmp_path, verify=False, clock_mhz=119)
    assert sorted((tmp_path / "asked").read_text().splitlines()) == ["118.75", "119.0"]
    assert report["fmax_mhz"] == 118.9
    assert report["clock_mhz_asked"] == 118.75


def asking(fake_tools, tiles, routable, reached="int(asked) + 1"):
    """A nextpnr that routes up to a clock, and leaves in ``asked`` what it was asked for and what became of it."""
    body = f"""
ripup = "--tmg-ripup" in args
lines = open(args[args.index("--lpf") + 1]).read().splitlines()
asked, = (float(line.split()[3]) for line in lines if line.startswith('FREQUENCY NET "$glbnet$core_clk" '))
stopped = ripup and asked > {routable}
report = {make_report(97.0)!r}
report["fmax"]["$glbnet$core_clk"] = {{"achieved": min({routable}, {reached}), "constraint": asked}}
told = [str(asked), *["stopped"] * stopped, *["at most"] * (not ripup)]
open("asked", "a").write(" ".join(told) + chr(10))
iteration = 0
while stopped:
    iteration += 1
    print(f"Info:     iter={{iteration}} wires=1 overused=0 overuse=0 tmgfail=1", flush=True)
"""
    fake_tools("nextpnr-ecp5", nextpnr(body, tiles=tiles))
