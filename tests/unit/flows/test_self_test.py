"""self-test: each thing that an image can lack is found, named and hinted at; what it has passes."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import bootc_fast
from bootc_fast.cli import main
from bootc_fast.flows.self_test import self_test
from bootc_fast.flows.self_test_python import EXTRAS, NEEDED
from bootc_fast.machine.host import open_host

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[3]
VERSION = "{}.{}".format(*sys.version_info[:2])
DIST = "usr/lib/python3/dist-packages"
COMPILE = [sys.executable, "-ISm", "compileall", "-q", "-f", "--invalidation-mode"]


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `tools/install` lays out, in an image whose libraries and Python are the distribution's."""
    root = tmp_path_factory.mktemp("image")
    docs = root / "docs"
    docs.mkdir()
    argv = [REPOSITORY / "tools/install", "--vendor", "none", "--docs", docs, root, VERSION]
    subprocess.run(argv, check=True, capture_output=True)
    shutil.rmtree(docs)
    (root / "usr/bin/python3").symlink_to(f"python{VERSION}")
    for name in ("anyio", "trio", "cryptography"):
        (root / DIST / name).mkdir(parents=True)
        (root / DIST / name / "__init__.py").write_text("")
    (root / DIST / f"_cffi_backend.cpython-{VERSION.replace('.', '')}-x86_64-linux-gnu.so").write_text("")
    subprocess.run([*COMPILE, "unchecked-hash", root / DIST], check=True)
    (root / "usr/lib/modules/6.12.1").mkdir(parents=True)
    (root / "usr/lib/modules/6.12.1/vmlinuz").write_text("")
    (root / "usr/lib/systemd/boot/efi").mkdir(parents=True)
    (root / "usr/lib/systemd/boot/efi/systemd-bootx64.efi").write_text("")
    return root


@pytest.fixture
def image(laid_out: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(laid_out, tmp_path / "image", symlinks=True))


def _bad(image: Path) -> list[tuple[str, str, str, str | None]]:
    return [(one.name, one.state, one.message, one.hint) for one in self_test(open_host(image)) if one.state != "ok"]


def test_a_whole_image_passes(image: Path) -> None:
    assert _bad(image) == []


def _drop(path: str) -> Callable[[Path], None]:
    return lambda image: (image / path).unlink()


def _write(path: str, text: str) -> Callable[[Path], None]:
    def write(image: Path) -> None:
        (image / path).parent.mkdir(parents=True, exist_ok=True)
        (image / path).write_text(text)

    return write


def _recompile(path: str, mode: str) -> Callable[[Path], None]:
    return lambda image: subprocess.run([*COMPILE, mode, image / path], check=True) and None


def _link(path: str, target: str) -> Callable[[Path], None]:
    def link(image: Path) -> None:
        (image / path).parent.mkdir(parents=True, exist_ok=True)
        (image / path).unlink(missing_ok=True)
        (image / path).symlink_to(target)

    return link


def _rebuild_for(version: str) -> Callable[[Path], None]:
    def change(image: Path) -> None:
        launcher = image / "usr/bin/bootc-fast"
        launcher.write_text(launcher.read_text().replace('BUILT_FOR = ""', f'BUILT_FOR = "{version}"'))

    return change


_UNITS = "usr/lib/systemd/system"
_OWN = "bootc-fast-finalize-staged.service"
_CASES = {
    "no command": (_drop("usr/bin/bootc-fast"), "command", "failed", "is not there"),
    "not executable": (
        lambda image: (image / "usr/bin/bootc-fast").chmod(0o644),
        "command",
        "failed",
        "not executable",
    ),
    "pip's script": (_write("usr/bin/bootc-fast", "#!/usr/bin/python3\n"), "command", "failed", "not the launcher"),
    "no Python": (_drop("usr/bin/python3"), "python", "failed", "is not there"),
    "an old Python": (_link("usr/bin/python3", "python3.10"), "python", "failed", "3.11 or newer"),
    "another Python": (_rebuild_for("3.99"), "python", "failed", "installed for 3.99"),
    "no core": (_drop("usr/lib/bootc-fast/bootc_fast/_core.abi3.so"), "libraries", "failed", "bootc_fast/_core is not"),
    "no trio": (lambda image: shutil.rmtree(image / DIST / "trio"), "libraries", "failed", "trio is not there"),
    "a library for another Python": (
        lambda image: next((image / DIST).glob("_cffi*")).rename(image / DIST / "_cffi_backend.cpython-399-x.so"),
        "libraries",
        "failed",
        "_cffi_backend is there for another Python alone",
    ),
    "byte code with times": (_recompile("usr/lib/bootc-fast", "timestamp"), "byte-code", "failed", "more"),
    "byte code that is compared": (_recompile("usr/lib/bootc-fast", "checked-hash"), "byte-code", "failed", "more"),
    "a module without byte code": (
        _write("usr/lib/bootc-fast/bootc_fast/new.py", ""),
        "byte-code",
        "failed",
        "bootc_fast/new.py",
    ),
    "a library with times": (_recompile(DIST + "/trio", "timestamp"), "byte-code", "warning", f"/{DIST}/trio"),
    "no unit": (_drop(f"{_UNITS}/{_OWN}"), "units", "failed", f"{_OWN} is not there"),
    "no link": (_drop(f"{_UNITS}/multi-user.target.wants/{_OWN}"), "units", "failed", "is not started"),
    "no drop-in": (
        _drop(f"{_UNITS}/bootc-finalize-staged.service.d/50-bootc-fast.conf"),
        "units",
        "failed",
        "would finalize, too",
    ),
    "half of the opt-out": (
        _link(f"etc/systemd/system/{_OWN}", "/dev/null"),
        "units",
        "warning",
        "still runs bootc-fast",
    ),
    "a policy file that is none": (_write("etc/bootc-fast/merge.toml", "x = ["), "policy", "failed", "merge.toml"),
    "no kernel": (_drop("usr/lib/modules/6.12.1/vmlinuz"), "kernel", "warning", "no usr/lib/modules"),
    "two kernels": (_write("usr/lib/modules/6.1/vmlinuz", ""), "kernel", "warning", "6.1, 6.12.1"),
    "no loader": (_drop("usr/lib/systemd/boot/efi/systemd-bootx64.efi"), "loader", "warning", "no boot loader"),
    "SELinux without our policy": (
        _write("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n"),
        "selinux",
        "warning",
        "does not label",
    ),
}


@pytest.mark.parametrize("case", _CASES)
def test_what_an_image_lacks_is_named_alone(image: Path, case: str) -> None:
    change, name, state, words = _CASES[case]
    change(image)
    found = _bad(image)
    assert {(one[0], one[1]) for one in found} == {(name, state)}, found
    assert words in found[0][2]
    assert found[0][3]


def test_the_whole_opt_out_passes_and_says_who_is_in_charge(image: Path) -> None:
    for name in (_OWN, "bootc-finalize-staged.service.d/50-bootc-fast.conf"):
        _link(f"etc/systemd/system/{name}", "/dev/null")(image)
    assert _bad(image) == []
    assert "bootc's own finalize is in charge" in [one.message for one in self_test(open_host(image))]


@pytest.mark.parametrize("place", ["file_contexts", "file_contexts.local"])
def test_a_policy_that_labels_the_command_passes(image: Path, place: str) -> None:
    _write("etc/selinux/config", "# comment\nSELINUX=permissive\nSELINUXTYPE=mls\n")(image)
    rule = "/usr/bin/bootc-fast\t--\tsystem_u:object_r:install_exec_t:s0\n"
    _write(f"etc/selinux/mls/contexts/files/{place}", "/usr/bin/.*\tsystem_u:object_r:bin_t:s0\n" + rule)(image)
    assert _bad(image) == []


def test_the_command_exits_with_10_and_prints_hints_or_json(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["self-test", "--root", str(image)]) == 0
    assert "FAILED" not in capsys.readouterr().out
    _drop(f"{_UNITS}/{_OWN}")(image)
    assert main(["self-test", "--root", str(image)]) == 10
    shown = capsys.readouterr()
    assert f"FAILED   units: {_OWN} is not there\n          hint: install the package" in shown.out
    assert shown.err.startswith("error: testing the installation: 1 of ")
    assert main(["self-test", "--root", str(image), "--json"]) == 10
    assert any(one["state"] == "failed" and one["hint"] for one in json.loads(capsys.readouterr().out)["checks"])


def test_on_the_running_system_everything_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    main(["self-test", "--json"])
    checks = {one["name"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["libraries"]["state"] == "ok", checks["libraries"]
    assert checks["core"] == {"name": "core", "state": "ok", "message": "the core loads and computes", "hint": None}


def test_a_library_that_cannot_be_imported_is_found(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['cryptography.hazmat.primitives.hashes'] = None\n"
        "from bootc_fast.cli import main\nsys.exit(main(['self-test']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert "FAILED   libraries: importing cryptography.hazmat.primitives.hashes: " in done.stdout
    assert done.returncode == 10


def test_every_import_of_somebody_elses_module_is_in_the_list() -> None:
    package = Path(bootc_fast.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    others = {name for name in found if name.partition(".")[0] not in {*sys.stdlib_module_names, "bootc_fast", *EXTRAS}}
    assert others <= set(NEEDED)
