"""What packages are built from, what stands in source archives, and what an image builder copies."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def _run(*argv: str | Path, cwd: Path = REPOSITORY) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_sources_that_packages_are_built_from_are_locked_and_leave_out_what_tests_need(tmp_path: Path) -> None:
    _run(REPOSITORY / "tools/source-tree", tmp_path)
    # Fails where Cargo.lock and the manifests disagree.
    _run("cargo", "metadata", "--locked", "--offline", "--format-version", "1", cwd=tmp_path)
    names = {one["name"] for one in tomllib.loads((tmp_path / "Cargo.lock").read_text())["package"]}
    assert {"bootc-fast-py", "bootc-fast-core", "bootc-fast-sys", "pyo3"} <= names
    assert not names & {"composefs", "tokio", "criterion", "proptest", "bootc-fast-crosscheck"}
    before = tomllib.loads((REPOSITORY / "Cargo.lock").read_text())["package"]
    after = tomllib.loads((tmp_path / "Cargo.lock").read_text())["package"]
    assert {(one["name"], one["version"]) for one in after} <= {(one["name"], one["version"]) for one in before}
    assert (tmp_path / "packaging/systemd/multi-user.target.wants/bootc-fast-boot-complete.service").is_symlink()


def test_the_source_distribution_has_what_packages_are_built_with(tmp_path: Path) -> None:
    _run(REPOSITORY / ".venv/bin/maturin", "sdist", "--out", tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    wanted = ("packaging/debian/rules", "packaging/rpm/bootc-fast.spec", "packaging/bootc-fast", "tools/install")
    for path in (
        *wanted,
        "docs/image-builder.md",
        "requirements/runtime.lock",
        "Makefile",
        "Cargo.lock",
        "LICENSE-MIT",
    ):
        assert path in names
    assert "locked" not in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["maturin"]


def test_what_a_package_index_shows_has_no_links_that_lead_nowhere() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    text = (REPOSITORY / project["readme"]).read_text()
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]*)\)", text))
    # The project has no address that all who build it can reach: none is better than one that leads nowhere.
    for path in ("pyproject.toml", "Cargo.toml", "packaging/rpm/bootc-fast.spec", "packaging/debian/control"):
        assert not re.findall(r"https?://", (REPOSITORY / path).read_text()), path
    assert (REPOSITORY / "SECURITY.md").read_text().startswith("# Security")


def test_every_crate_that_is_linked_has_its_licence_and_its_text() -> None:
    text = _run(REPOSITORY / "tools/crate-licences")
    lines = text.split("\n\n---")[0].splitlines()
    assert len(lines) > 25
    assert all(re.fullmatch(r"[\w-]+ [\w.+-]+: .*(MIT|Apache-2.0|BSL-1.0|Unicode-3.0).*", line) for line in lines), (
        lines
    )
    assert any(line.startswith("pyo3 ") for line in lines)
    assert not any(line.startswith(("composefs", "tokio", "bootc-fast")) for line in lines)
    for words in ("Apache License", "Permission is hereby granted", "Boost Software License"):
        assert words in text


@pytest.mark.parametrize("system", ["debian", "fedora"])
def test_the_examples_name_what_is_built_and_end_with_the_self_test(system: str) -> None:
    text = (REPOSITORY / f"examples/Containerfile.{system}").read_text()
    steps = re.findall(r"^(FROM|COPY|RUN) (.*(?:\\\n.*)*)", text, re.MULTILINE)
    assert steps[0] == ("FROM", "${BASE}")
    assert steps[-1] == ("RUN", "bootc-fast self-test")
    kind = {"debian": "build/deb/trixie/bootc-fast_*.deb", "fedora": "build/rpm/bootc-fast-0*.rpm"}[system]
    assert steps[1] == ("COPY", f"{kind} /tmp/")
    assert any("unchecked-hash" in step for _, step in steps)


_EXTRAS = ["bootc_fast/lab", "bootc_fast/cli/lab_*.py"]


def test_both_kinds_of_packages_leave_the_same_to_the_extras() -> None:
    rules = (REPOSITORY / "packaging/debian/rules").read_text()
    assert re.findall(r"^\tmv \$\(BASE\)/\$\(LIBRARY\)/(\S+)", rules, re.MULTILINE) == _EXTRAS
    base, _, extras = (REPOSITORY / "packaging/rpm/bootc-fast.spec").read_text().partition("%files extras")
    code = "bootc_fast/cli/__pycache__/lab_*.pyc"
    assert re.findall(r"^%exclude %\{library\}/(\S+)", base, re.MULTILINE) == [*_EXTRAS, code]
    assert re.findall(r"^%\{library\}/(\S+)", extras, re.MULTILINE) == [*_EXTRAS, code]


def test_without_the_extras_everything_can_be_imported_and_the_lab_says_what_is_missing(tmp_path: Path) -> None:
    library = tmp_path / "bootc_fast"
    shutil.copytree(REPOSITORY / "python/bootc_fast", library, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in _EXTRAS:
        for path in tmp_path.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    names = sorted(
        ".".join(path.relative_to(tmp_path).with_suffix("").parts)
        for path in library.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    )
    assert len(names) > 200
    code = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1]); [importlib.import_module(one) for one in sys.argv[2:]]"
    )
    _run(sys.executable, "-Ic", code, tmp_path, *names)
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bootc_fast.cli import main; sys.exit(main())"
    for words in (["create", "x"], ["demo"], ["boot", "x"], ["stage", "x"], ["edit", "x"], ["show", "x"]):
        done = subprocess.run(
            [sys.executable, "-Ic", code, tmp_path, "lab", *words],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode != 0
        assert "bootc-fast-extras" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
