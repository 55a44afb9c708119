"""A small initramfs that does what bootc's does: mount the composefs image, /etc, /var and switch to it.

bootc's own initramfs module is a Rust program inside a dracut image; neither is to be had on Debian. This one keeps
to what a running host can see of it: the overlay's source is ``composefs:<digest>``, /etc is the deployment's, /var
is shared, the physical root is at /sysroot.
"""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# crc32c_generic: a soft dependency of ext4 and erofs, which modules.dep does not name.
_MODULES = (
    "crc32c_generic",
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "erofs",
    "overlay",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "nls_iso8859_1",
    "nls_utf8",
    "loop",
)

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /bin /proc /sys /dev /sysroot /image /root.new
/bin/busybox --install -s /bin
die() { echo "initramfs: $*"; poweroff -f; }
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module" || echo "initramfs: $module failed"; done < /modules/order
for word in $(cat /proc/cmdline); do
  case "$word" in composefs=*) digest=${word#composefs=}; digest=${digest#[?]} ;; esac
done
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda2 ] && break; sleep 1; done
mount -t ext4 -o rw /dev/vda2 /sysroot || die no root
state=/sysroot/state/deploy/$digest
mount -t erofs -o ro "/sysroot/composefs/images/$digest" /image || {
  losetup -r /dev/loop0 "/sysroot/composefs/images/$digest" && mount -t erofs -o ro /dev/loop0 /image || die no image
}
layers=/image::/sysroot/composefs/objects
mount -t overlay "composefs:$digest" -o "ro,metacopy=on,redirect_dir=on,lowerdir=$layers" /root.new || die no overlay
mount -o bind "$state/etc" /root.new/etc
mount -o bind "/sysroot/state/os/default/var" /root.new/var
mount -o move /sysroot /root.new/sysroot
umount /proc /sys
mount -o move /dev /root.new/dev
exec switch_root /root.new /sbin/init
"""


def _module_order(modules: Path, wanted: Sequence[str]) -> list[str]:
    """Return the files of modules and of what they need, dependencies first, relative to `modules`."""
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        by_name[Path(path).name.split(".")[0].replace("-", "_")] = path
    order: list[str] = []

    def add(path: str) -> None:
        for dependency in reversed(needs[path]):
            add(dependency)
        if path not in order:
            order.append(path)

    for name in wanted:
        if name in by_name:  # else built in
            add(by_name[name])
    return order


def make_initramfs(
    root: Path,
    work: Path,
    busybox: Path = Path("/bin/busybox"),
    *,
    init: str = INIT,
    modules: Sequence[str] = (),
    versions: str = "usr/lib/modules",
) -> Path:
    """Make an initramfs for the newest kernel of the tree at `root`; return the cpio archive.

    Args:
        root: A tree with a kernel's modules.
        work: Where it is made: the archive, and the tree ``initramfs`` that is in it.
        busybox: What it has for programs.
        init: Its first process, a shell script.
        modules: What it loads besides.
        versions: Where in the tree each kernel's modules are, in a directory by its version.
    """
    (directory,) = sorted((root / versions).iterdir())[-1:]
    tree = work / "initramfs"
    (tree / "bin").mkdir(parents=True)
    (tree / "modules").mkdir()
    (tree / "bin/busybox").write_bytes(busybox.read_bytes())
    (tree / "bin/busybox").chmod(0o755)
    (tree / "init").write_text(init)
    (tree / "init").chmod(0o755)
    names = []
    for path in _module_order(directory, (*_MODULES, *modules)):
        data = (directory / path).read_bytes()
        name = Path(path).name
        if name.endswith(".xz"):
            data, name = lzma.decompress(data), name.removesuffix(".xz")
        (tree / "modules" / name).write_bytes(data)
        names.append(name)
    (tree / "modules/order").write_text("".join(f"{name}\n" for name in names))
    archive = work / "initramfs.cpio"
    listing = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*")))
    with archive.open("wb") as out:
        argv = ["cpio", "--create", "--format=newc", "--quiet", "--owner=0:0"]
        subprocess.run(argv, input=listing.encode(), stdout=out, cwd=tree, check=True)
    return archive
