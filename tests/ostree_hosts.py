"""Ostree hosts in directories, made by `ostree admin`: real commits, deployments, origins and boot entries."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flowkit
import jsonschema

if TYPE_CHECKING:
    import pytest

REFERENCE = "ostree-unverified-registry:registry.example/example/os:{}"


def manifest_digest(number: int) -> str:
    return f"sha256:{number:064d}"


def make_kernel(number: int) -> bytes:
    """Make a file that is a kernel as far as its header goes."""
    return bytes(0x202) + f"HdrS kernel {number}".encode()


@dataclass(frozen=True)
class OstreeHost:
    """A host; deployments are named by the number of their version."""

    root: Path

    @property
    def sysroot(self) -> Path:
        return self.root / "sysroot"

    @property
    def staged_file(self) -> Path:
        return self.root / "run/ostree/staged-deployment"

    def ostree(self, *arguments: str | Path) -> str:
        # Deployments stay deletable without the immutable flag.
        environment = {**os.environ, "OSTREE_SYSROOT_DEBUG": "mutable-deployments", "LC_ALL": "C"}
        done = subprocess.run(["ostree", *arguments], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def admin(self, verb: str, *arguments: str | Path) -> str:
        return self.ostree("admin", verb, f"--sysroot={self.sysroot}", *arguments)

    def commit(self, number: int, *, kernel: int | None = None, metadata: dict[str, str] | None = None) -> str:
        """Commit version `number`, with the kernel of another version if wanted; returns the checksum."""
        tree = self.root.parent / f"tree{number}"
        modules = tree / f"usr/lib/modules/6.{kernel or number}"
        modules.mkdir(parents=True)
        for directory in ("usr/etc", "boot", "run", "proc", "dev", "sysroot"):
            (tree / directory).mkdir()
        (tree / "ostree").symlink_to("sysroot/ostree")
        (modules / "vmlinuz").write_bytes(make_kernel(kernel or number))
        (modules / "initramfs.img").write_text(f"initrd {kernel or number}")
        (tree / "usr/lib/os-release").write_text(f'ID=example\nVERSION_ID={number}\nPRETTY_NAME="Example {number}"\n')
        (tree / "usr/etc/conf").write_text(str(number))
        return self.ostree(
            f"--repo={self.sysroot}/ostree/repo",
            "commit",
            f"--branch=os{number}",
            f"--tree=dir={tree}",
            f"--add-metadata-string=ostree.manifest-digest={manifest_digest(number)}",
            f"--add-metadata-string=version={number}.1",
            f"--timestamp=2026-01-{number:02d} 00:00:00 +0000",
            *(f"--add-metadata-string={name}={text}" for name, text in (metadata or {}).items()),
        ).strip()

    def deploy(
        self, number: int, *, stateroot: str = "default", is_container: bool = True, karg: str = "root=LABEL=x"
    ) -> None:
        origin = self.root.parent / f"origin{number}"
        text = f"container-image-reference={REFERENCE.format(number)}" if is_container else f"refspec=os{number}"
        origin.write_text(f"[origin]\n{text}\n")
        options = (f"--os={stateroot}", f"--origin-file={origin}", "--retain", f"--karg={karg}")
        self.admin("deploy", *options, f"os{number}")

    def boot(self) -> None:
        """Do what firmware and loader would: the first entry's options become the command line."""
        entries = sorted((self.sysroot / "boot/loader/entries").iterdir(), key=lambda path: path.name)
        found = re.search(r"^options (.*)$", entries[-1].read_text(), re.MULTILINE)
        assert found
        (self.root / "proc/cmdline").write_text(found[1] + "\n")

    def order(self) -> list[str]:
        """Versions, in the order that `ostree admin status` prints."""
        return re.findall(r"Version: (\d+)\.1", self.admin("status"))

    def entries(self) -> list[str]:
        """Titles of the boot entries in the loader's order."""
        paths = sorted((self.sysroot / "boot/loader/entries").iterdir(), reverse=True)
        return [path.read_text().splitlines()[0].split()[2] for path in paths]

    def deployment(self, number: int) -> Path:
        """Directory of a deployment."""
        return self.sysroot / f"ostree/deploy/default/deploy/{self.find_commit(number)}.0"

    def run_from_mount(self, number: int) -> None:
        """Let the mount at / say what runs: several deployments with one kernel cannot be told apart otherwise."""
        mountinfo = self.root / "proc/self/mountinfo"
        mountinfo.parent.mkdir(exist_ok=True)
        where = self.deployment(number).relative_to(self.sysroot)
        mountinfo.write_text(f"22 1 8:1 /{where} / rw - xfs /dev/sda1 rw\n")

    def stage(self, number: int, *, is_locked: bool = False) -> str:
        """Write what libostree writes for a staged deployment; returns its commit."""
        from gi.repository import GLib

        commit = self.find_commit(number)
        strings = {"name": f"{commit}.1", "osname": "default"}
        target = GLib.Variant("a{sv}", {key: GLib.Variant("s", text) for key, text in strings.items()})
        data = {"target": target, **({"locked": GLib.Variant("b", True)} if is_locked else {})}  # noqa: FBT003 - C API
        self.staged_file.parent.mkdir(exist_ok=True)
        self.staged_file.write_bytes(GLib.Variant("a{sv}", data).get_data_as_bytes().get_data())
        return commit

    def find_commit(self, number: int) -> str:
        return self.ostree(f"--repo={self.sysroot}/ostree/repo", "rev-parse", f"os{number}").strip()


def make_host(directory: Path, *numbers: int, plain: tuple[int, ...] = (), kernel: int | None = None) -> OstreeHost:
    """Make a host that runs the last of `numbers`; those in `plain` did not come from a container."""
    host = OstreeHost(directory / "host")
    for name in ("sysroot", "run", "proc"):
        (host.root / name).mkdir(parents=True)
    host.ostree("admin", "init-fs", host.sysroot)
    host.admin("os-init", "default")
    # Also for those who are not root.
    host.ostree(f"--repo={host.sysroot}/ostree/repo", "config", "set", "core.mode", "bare-user-only")
    host.ostree(f"--repo={host.sysroot}/ostree/repo", "config", "set", "sysroot.bootloader", "none")
    for number in numbers:
        host.commit(number, kernel=kernel)
        host.deploy(number, is_container=number not in plain)
    (host.root / "run/ostree-booted").touch()
    host.boot()
    return host


def document(capsys: pytest.CaptureFixture[str], host: OstreeHost) -> dict[str, Any]:
    """What `status --json` prints, checked with bootc's schema."""
    code, out, err = flowkit.run(capsys, "status", "--root", host.root, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    schema = json.loads((Path(__file__).parent / "corpora/host-v1.schema.json").read_text())
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(found)
    return found


def rollback(capsys: pytest.CaptureFixture[str], host: OstreeHost, *options: str) -> tuple[int, str, str]:
    return flowkit.run(capsys, "rollback", "--root", host.root, *options)
