"""Finding the tools and running them."""

import pytest
from stand_ins import make_plan

from gen import tools
from gen.build import build
from gen.errors import GenError


def test_a_users_tool_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("NEXTPNR_ECP5", str(tmp_path / "nowhere"))
    with pytest.raises(GenError, match="^NEXTPNR_ECP5 must name a program, not '.*/nowhere': there is none"):
        build(make_plan(), directory=tmp_path / "out", verify=False)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.delenv("YOSYS", raising=False)
    monkeypatch.setattr(tools.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GenError, match="^yosys is not installed: install the package pyosys with pip, or name"):
        tools.command("yosys")


def test_a_tool_that_is_no_program_is_named(monkeypatch, tmp_path):
    (tmp_path / "ecppack").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "ecppack").chmod(0o755)
    monkeypatch.setenv("ECPPACK", str(tmp_path / "ecppack"))
    for call in (lambda: tools.version("ecppack"), lambda: tools.run("ecppack", [], directory=tmp_path, log="x.log")):
        with pytest.raises(GenError, match="^ecppack cannot be run: .*/ecppack: Exec format error$"):
            call()


def test_a_tool_that_takes_too_long_is_stopped(fake_tools, tmp_path):
    fake_tools("yosys", "print('working', flush=True)\ntime.sleep(60)")
    with pytest.raises(GenError, match=r"^yosys ran for more than 0.5 s and was stopped; its log is .*/y.log$"):
        tools.run("yosys", [], directory=tmp_path, log="y.log", timeout_s=0.5)


def test_a_failure_shows_the_last_lines_where_none_tells_of_an_error(fake_tools, tmp_path):
    fake_tools("yosys", "print('\\n'.join(map(str, range(50))))\nsys.exit(9)")
    with pytest.raises(GenError) as caught:
        tools.run("yosys", [], directory=tmp_path, log="y.log")
    assert str(caught.value).splitlines()[1:] == [f"  {n}" for n in range(44, 50)]
    assert (tmp_path / "y.log").read_text().split() == [str(n) for n in range(50)]


def test_verilator_needs_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GenError, match=r"^Verilator needs g\+\+, make, perl; not found: g\+\+, make, perl \(Debian"):
        tools.verilator_environment()


def test_verilators_environment(monkeypatch, tmp_path):
    for name in ("g++", "make", "perl", "verilator"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VERILATOR", raising=False)
    environment = tools.verilator_environment()
    assert environment["PATH"] == f"{environment['VERILATOR_ROOT']}/bin:{tmp_path}"
    assert tools.command("verilator") == [f"{environment['VERILATOR_ROOT']}/bin/verilator"]
    monkeypatch.setenv("VERILATOR", "verilator")
    monkeypatch.setenv("VERILATOR_ROOT", "/elsewhere")
    environment = tools.verilator_environment()
    assert environment["PATH"] == f"{tmp_path}:{tmp_path}" and "VERILATOR_ROOT" not in environment
