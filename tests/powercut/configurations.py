"""The boot partitions that power is cut on: what each is like, and what is done to it while it is recorded."""

from __future__ import annotations

from dataclasses import dataclass, replace

# What the product itself gives to vfat.
_MOUNT = "umask=0077,errors=continue"
_SMALL_CLUSTERS = ("-F32", "-s1")
_LARGE_CLUSTERS = ("-F32", "-s8")
_FAT16 = ("-F16", "-s4")
# `mkfs.vfat -F 32` as it comes: 512-byte clusters up to 260 MiB, 4 KiB from there on.
_DEFAULT = ("-F32",)


@dataclass(frozen=True)
class Configuration:
    """One recording.

    Attributes:
        name: Its own name, also in the table of docs/power-cuts.md.
        group: Line of that table.
        host: Recipe of the host (`hosts.py`).
        size_mib: Of the boot partition.
        options: For ``mkfs.vfat``; none: ext4.
        mount: Options.
        who: ``product``, ``bootc`` for its own sequence, or ``firmware``: the boot loader in OVMF (`firmware.py`).
        steps: What is done, a mark after each (`guest.py`).
        fill: A directory, and how many one-slot names it gets besides what the host has.
        free: How many clusters stay free; None: as many as there are.
        holes: Free space lies in single clusters, so far apart that neighbours are in different FAT sectors.
        boot: The boot directory: ``efi`` (the ESP), ``shared`` (sysroot/boot is the ESP too), ``boot`` (its own).
        idle: The machine stays up for a while after each step, so that the kernel writes back by itself.
        cut_of: A recording of which a cut state is this one's start: name, what boots from it (``old``, ``new``), and
            which of such states, counted from 0. What boots is ``none``: a bad state.
        is_checked: ``fsck.fat -a`` has seen that state, as at every boot, until it had nothing to mend.
        after: A recording, and its step after which this one starts.
        again: Hosts that take up a state that boots the old or the new deployment, with ``boot-complete`` alone; None:
            those of the update, which finalize or roll back.
    """

    name: str
    group: str
    host: str = "bls"
    size_mib: int = 34
    options: tuple[str, ...] = _SMALL_CLUSTERS
    mount: str = _MOUNT
    who: str = "product"
    steps: tuple[str, ...] = ("finalize", "boot", "rollback", "revert")
    fill: tuple[str, int] | None = None
    free: int | None = None
    holes: bool = False
    boot: str = "efi"
    idle: bool = False
    cut_of: tuple[str, str, int] | None = None
    is_checked: bool = False
    after: tuple[str, str] | None = None
    again: tuple[str, str] | None = None

    @property
    def source(self) -> str | None:
        """The recording that this one starts from."""
        return self.cut_of[0] if self.cut_of else self.after[0] if self.after else None

    @property
    def is_ext4(self) -> bool:
        """Whether the boot partition has a journal."""
        return not self.options

    @property
    def loader(self) -> str:
        """``grub`` or ``systemd-boot``."""
        return "grub" if "grub" in self.host else "systemd-boot"


def _fats(name: str, group: str, **common: object) -> list[Configuration]:
    kinds = (("512", 34, _SMALL_CLUSTERS), ("4k", 288, _LARGE_CLUSTERS), ("fat16", 32, _FAT16))
    return [
        Configuration(f"{name}-{kind}", group, size_mib=size, options=options, **common)  # type: ignore[arg-type]
        for kind, size, options in kinds
    ]


def _product() -> list[Configuration]:
    found = [
        *_fats("bls", "FAT32 with 512-byte and 4 KiB clusters, FAT16"),
        *_fats("uki", "UKIs", host="uki"),
        *_fats("grub", "GRUB with user.cfg", host="grub-uki", boot="shared"),
        *_fats("stage", "bootc's way of staging, then ours", host="one", steps=("stage", "finalize")),
        *_fats("garbage", "kernels that nothing names", host="garbage"),
        *_fats("foreign", "foreign entries, a directory of several clusters", host="foreign"),
        *_fats("long", "long names", host="long"),
        *_fats("holes", "fragmented free space", host="updated", holes=True),
    ]
    found += [
        Configuration(f"default-{mib}", "default `mkfs.vfat -F 32`, 100 to 1,024 MiB", host="updated",
                      size_mib=mib, options=_DEFAULT)
        for mib in (100, 200, 260, 512, 1024)
    ]  # fmt: skip
    found += [
        Configuration(f"full-{free}-{kind}", "nearly full", host="garbage", size_mib=size, options=options, free=free)
        for kind, size, options, frees in (("512", 34, _SMALL_CLUSTERS, (8, 14)), ("fat16", 32, _FAT16, (4, 6)))
        for free in frees
    ]
    found += [
        Configuration("idle-512", "left alone after each step", host="updated", idle=True),
        Configuration("sync-512", "mounted with sync, flush", host="updated", mount=_MOUNT + ",sync"),
        Configuration("flush-512", "mounted with sync, flush", host="updated", mount=_MOUNT + ",flush"),
    ]
    found.append(
        Configuration(
            "ext4-grub", "ext4, GRUB reads the entries", host="grub-bls", size_mib=32, options=(), mount="", boot="boot"
        )
    )
    for directory, short in (("loader/entries", "entries"), ("loader", "loader"), ("EFI/Linux", "linux")):
        found += [
            Configuration(f"fill-{short}-{slots:02d}", f"every fill of {directory}", host="updated",
                          fill=(directory, slots), steps=("finalize",))
            for slots in range(16)
        ]  # fmt: skip
    return [*found, *_after_cuts({one.name: one for one in found}), *_trials(), *_unstaged()]


# What a cut left, by the deployment that boots from it and by number: the first ones have something that is not whole.
_CUTS = (("old", 0), ("old", 3), ("old", 7), ("new", 0))


def _after_cuts(sources: dict[str, Configuration]) -> list[Configuration]:
    """Runs on what a first cut left, in which power fails again."""
    kinds = (
        ("second", "a second cut, in the run that follows", None, ("bls-512", "garbage-512", "garbage-fat16",
                                                                   "foreign-512", "grub-512")),
        ("complete", "boot-complete after a cut", ("boot-complete",), ("bls-512", "bls-4k", "bls-fat16")),
        ("doctor", "doctor --repair after a cut", ("doctor",), ("garbage-512", "garbage-fat16")),
    )  # fmt: skip
    return [
        replace(sources[source], name=f"{kind}-{source}-{boots}{number}", group=group,
                steps=steps or sources[source].steps, cut_of=(source, boots, number))
        for kind, group, steps, names in kinds
        for source in names
        for boots, number in _CUTS
    ]  # fmt: skip


# Starts of the new deployment that the loader counts, and the next one.
_TRIES = ("try-1", "try-2", "try-3", "regular")


def _trials() -> list[Configuration]:
    """An update that is counted: ours, the loader's own writes at each boot, and how it ends."""
    found = []
    for loader, host, boot, kinds in (
        ("", "trial", "efi", ("512", "4k", "fat16")),
        ("grub-", "grub-trial", "shared", ("512", "fat16")),
    ):
        who = "GRUB's" if loader else "systemd-boot's"
        again = (f"{host}-fallen", f"{host}-tried")
        name, group = f"trial-{loader}".removesuffix("-"), "an update is published with its tries"
        firsts = _fats(name, group, host=host, boot=boot, steps=("finalize",))
        for first in firsts:
            kind = first.name.rpartition("-")[2]
            if kind not in kinds:
                continue
            counts, good = f"counts-{loader}{kind}", "blessed after the first try, and after the last"
            found += [
                first,
                replace(first, name=counts, group=f"{who} own counting, recorded in OVMF", who="firmware",
                        steps=_TRIES, after=(first.name, "unmount"), again=again),
                replace(first, name=f"bless-{loader}{kind}", group=good,
                        host=f"{host}-tried", steps=("bless",), after=(counts, "try-1"), again=again),
                replace(first, name=f"bless-last-{loader}{kind}", group=good,
                        host=f"{host}-last", steps=("bless",), after=(counts, "try-3"), again=again),
                replace(first, name=f"fallback-{loader}{kind}", group="the fallback is made regular",
                        host=f"{host}-fallen", steps=("fallback",), after=(counts, "regular"), again=again),
            ]  # fmt: skip
    return found


def _unstaged() -> list[Configuration]:
    group, common = "unstage", {"steps": ("unstage",)}
    found = _fats("unstage", group, host="trial", again=("trial-reset", "trial-reset"), **common)
    for name, host, boot in (("uki", "uki", "efi"), ("grub", "grub-trial", "shared")):
        again = (f"{host}-reset", f"{host}-reset")
        found.append(Configuration(f"unstage-{name}-512", group, host=host, boot=boot, again=again, **common))  # type: ignore[arg-type]
    return found


def _repaired(sources: dict[str, Configuration]) -> list[Configuration]:
    """``doctor --repair`` on what cuts of bootc's sequence left, before and after ``fsck.fat -a``."""
    return [
        replace(sources[source], name=f"doctor-{source}-{boots}{number}{'-fsck' if is_checked else ''}",
                group="doctor --repair after a cut of bootc's sequence", who="product", steps=("doctor",),
                host=f"{sources[source].host}-reset", cut_of=(source, boots, number), is_checked=is_checked)
        for source in ("bootc-bls-512", "bootc-bls-fat16", "bootc-uki-512", "bootc-grub-512")
        for boots, number in (("none", 0), ("none", 1), ("none", 2), ("new", 0))
        for is_checked in (False, True)
    ]  # fmt: skip


def _bootc() -> list[Configuration]:
    found = []
    for prefix, group, mount in (
        ("bootc", "bootc's sequence", _MOUNT),
        ("dirsync", "bootc's sequence with DIRSYNC", _MOUNT + ",dirsync"),
    ):
        common = {"who": "bootc", "steps": ("finalize", "rollback"), "mount": mount}
        found += _fats(f"{prefix}-bls", group, **common)
        found += [
            Configuration(
                f"{prefix}-ext4",
                group,
                host="grub-bls",
                size_mib=32,
                options=(),
                boot="boot",
                who="bootc",
                steps=("finalize", "rollback"),
                mount="dirsync" if "dirsync" in mount else "",
            ),
            Configuration(f"{prefix}-uki-512", group, host="uki", **common),  # type: ignore[arg-type]
            Configuration(f"{prefix}-grub-512", group, host="grub-uki", boot="shared", **common),  # type: ignore[arg-type]
            Configuration(f"{prefix}-default-200", group, host="updated", size_mib=200, options=_DEFAULT, **common),  # type: ignore[arg-type]
        ]
    return [*found, *_repaired({one.name: one for one in found})]


CONFIGURATIONS = {one.name: one for one in (*_product(), *_bootc())}
