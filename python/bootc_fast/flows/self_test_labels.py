"""``self-test``: whether an image with SELinux lets the command write labels that only the new policy knows.

Source:
    Spec packaging.md, "SELinux"; selinux(8), selabel_file(5); docs/selinux.md.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootc_fast.machine.host import Host

TYPE = "install_exec_t"
_LABEL = "security.selinux"
_HINT = "install the policy module bootc-fast, and label the image's files anew (docs/selinux.md)"
_MAX_CONTEXT_BYTES = 16 << 20


def check_labels(host: Host) -> Iterator[tuple[str, str, str | None]]:
    """The label that the policy gives the command, and the one that it has."""
    config = host.root / "etc/selinux/config"
    if host.find_status(config) is None:
        yield "ok", "SELinux is not installed", None
        return
    text = host.read_bytes(config).decode("utf-8", "replace")
    settings = dict(re.findall(r"^(SELINUX|SELINUXTYPE)\s*=\s*(\S+)", text, re.MULTILINE))
    mode, policy = settings.get("SELINUX", "enforcing"), settings.get("SELINUXTYPE", "targeted")
    if mode == "disabled":
        yield "ok", "SELinux is disabled", None
        return
    contexts = host.root / "etc/selinux" / policy / "contexts/files"
    rules = b"".join(
        host.read_bytes(contexts / name, max_bytes=_MAX_CONTEXT_BYTES)
        for name in ("file_contexts", "file_contexts.local")
        if host.find_status(contexts / name) is not None
    )
    named = re.search(rb"^/usr/bin/bootc-fast\s.*:(\w+):s0", rules, re.MULTILINE)
    if named is None or named[1].decode() != TYPE:
        yield "warning", f"the policy does not label /usr/bin/bootc-fast {TYPE}", _HINT
        return
    label = _read_label(host)
    if label is None:
        yield "ok", f"the policy labels the command {TYPE}; the image has no labels yet", None
    elif f":{TYPE}:" in f"{label}:":
        yield "ok", f"/usr/bin/bootc-fast is {TYPE}", None
    else:
        yield "warning", f"/usr/bin/bootc-fast is labelled {label}", "restorecon -v /usr/bin/bootc-fast"


def _read_label(host: Host) -> str | None:
    try:
        fd = host.open_file(host.root / "usr/bin/bootc-fast")
    except FileNotFoundError:
        return None
    try:
        return os.getxattr(fd, _LABEL).rstrip(b"\0").decode("utf-8", "replace")
    except OSError:
        # No such attribute, or a file system without any.
        return None
    finally:
        os.close(fd)
