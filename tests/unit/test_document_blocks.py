"""Every block of every document is tried by something: a command is run, a policy file parsed, a program run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bootc_fast import lab

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# By what a block begins with: who tries it.
ELSEWHERE = {
    ("README.md", "[6/13] The finalize"): "test_documents: the demo says it",
    ("README.md", "tests of each kind"): "test_documents: tools/test prints it",
    ("README.md", "bootc-fast status "): "test_documents: each command can be typed",
    ("architecture.md", "cli\n"): "test_layout: the picture is the contract",
    ("architecture.md", "class Tree:"): "a sketch of _core.pyi, which stubtest holds against the core",
    ("health.md", "[Unit]"): "test_packaging: systemd-analyze takes it",
    ("image-builder.md", "ln -s /dev/null"): "test_packaging: run, and bootc's unit verified",
    ("selinux.md", "checkmodule "): "test_packaging: run",
    ("library.md", "async def finalize_staged("): "test_public: compared with the package",
}
# Which policy file a page speaks of.
POLICIES = {
    "boot-entries.md": "boot.toml",
    "health.md": "trial.toml",
    "trial.md": "trial.toml",
    "merge-policy.md": "merge.toml",
}
# What test_documents runs.
RUN = {"admin.md", "fleet.md", "developer.md"}


def _blocks(page: Path) -> list[tuple[str, str]]:
    return _BLOCK.findall(page.read_text())


def _find_block(page: str, words: str) -> str:
    path = ROOT / page
    (text,) = [text for _, text in _blocks(path) if text.startswith(words)]
    return text


def _is_tried(page: Path, kind: str, text: str) -> bool:
    if any(page.name == name and text.startswith(words) for name, words in ELSEWHERE):
        return True
    if page.name in RUN:
        return kind in ("console", "toml")
    if page.name in POLICIES:
        return kind == "toml"
    return (page.name, kind) in {("README.md", "python"), ("image-builder.md", "")}


def test_no_block_of_any_page_is_tried_by_nothing() -> None:
    blocks = [(page, kind, text) for page in PAGES for kind, text in _blocks(page)]
    assert len(blocks) > 30
    assert [(page.name, text[:60]) for page, kind, text in blocks if not _is_tried(page, kind, text)] == []
    for name, words in ELSEWHERE:
        assert any(page.name == name and text.startswith(words) for page, _, text in blocks), (name, words)


@pytest.mark.parametrize("page", POLICIES)
def test_each_policy_file_that_a_page_shows_is_one(tmp_path: Path, page: str) -> None:
    texts = [text for kind, text in _blocks(ROOT / "docs" / page) if kind == "toml"]
    assert texts
    for text in texts:
        path = tmp_path / POLICIES[page]
        path.write_text(text.replace("<digest>", "ab" * 64))
        argv = [sys.executable, "-m", "bootc_fast", "policy", "check"]
        done = subprocess.run([*argv, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        path.write_text(text.replace(" = ", "x = ", 1))
        assert subprocess.run([*argv, path], capture_output=True, check=False).returncode == 10


def test_the_readmes_program_finalizes(tmp_path: Path) -> None:
    files: lab.LabFiles = {"motd": "1\n"}
    host = lab.make_host(tmp_path / "host", files=files)
    lab.stage_files(host, {"motd": "2\n"}, version="2")
    program = _find_block("README.md", "import trio\n")
    assert 'finalize_staged("/"' in program
    program = program.replace('"/"', repr(str(host.root)))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^done \S+\.conf$", done.stdout, re.MULTILINE), done.stdout
    assert "StepStarted" in done.stdout


def test_the_image_builders_lines_are_those_of_the_example_and_can_be_run(tmp_path: Path) -> None:
    page = (ROOT / "docs/image-builder.md").read_text()
    example = " ".join((ROOT / "examples/Containerfile.debian").read_text().replace("\\\n", " ").split())
    lines = _find_block("docs/image-builder.md", "COPY ").splitlines()
    assert [line.split()[0] for line in lines] == ["COPY", "RUN", "RUN"]
    assert lines[0] in example
    for step in ("apt-get install -y --no-install-recommends /tmp/bootc-fast_*.deb", "RUN bootc-fast self-test"):
        assert step in " ".join(lines)
        assert step in example
    compiling = _find_block("docs/image-builder.md", "RUN python3 -m compileall").removeprefix("RUN ").strip()
    assert compiling.rpartition(" ")[0] in example
    module = tmp_path / "python3.11/module.py"
    module.parent.mkdir()
    module.write_text("x = 1\n")
    (place,) = re.findall(r"/usr/lib/python3\*$", compiling)
    subprocess.run(["bash", "-euc", compiling.replace(place, f"{tmp_path}/python3*")], check=True)
    (made,) = module.parent.glob("__pycache__/*.pyc")
    # Bit 0: by hash, bit 1: which is compared.
    assert int.from_bytes(made.read_bytes()[4:8], "little") == 1
    assert "examples/Containerfile.fedora" in page
