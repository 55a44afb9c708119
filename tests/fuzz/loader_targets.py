"""Files of the boot loaders: what is read is what is there, and a change changes what it is for and nothing else."""

from __future__ import annotations

from fuzz.target import KNOWN, Target, split

from bootc_fast.boot.loaders import entry, grubenv, systemd_boot, user_cfg, version
from bootc_fast.boot.loaders.override import LoaderOverride, OverrideKind
from bootc_fast.boot.loaders.table import parse_loader_info
from bootc_fast.types import VerityDigest

_KNOWN = {VerityDigest(KNOWN)}

_ENTRY = f"""title Fedora Linux 42 (ostree:0)
version 42.20260101.0
sort-key bootc-fedora-0
linux /bootc_composefs-{KNOWN}/vmlinuz
initrd /bootc_composefs-{KNOWN}/initrd
options root=UUID=1 rw composefs={KNOWN}
""".encode()


def _check_entry(data: bytes) -> None:
    name, raw, sort_key = split(data, 3)
    name = name[:255]
    sort_key = bytes(byte for byte in sort_key if byte > ord(" ") and byte not in b"\"'#") or b"key"
    found = entry.parse_entry(name, raw, known=_KNOWN)
    assert found.raw == raw
    assert found.digest is None or len(found.digest) in (64, 128)
    assert isinstance(found.label, str)
    assert found.label.isprintable()
    before = entry.parse_text(raw)
    changed = entry.replace_sort_key(raw, sort_key)
    after = entry.parse_text(changed)
    assert after.find(b"sort-key") == sort_key
    others = [[field for field in text.fields if field[0] != b"sort-key"] for text in (before, after)]
    assert others[0] == others[1]
    assert entry.replace_sort_key(changed, sort_key) == changed
    renamed = entry.parse_text(entry.rename_key(raw, b"efi", b"uki"))
    assert [(b"uki" if key == b"efi" else key, value) for key, value in before.fields] == list(renamed.fields)


_USER_CFG = f"""set timeout=5
menuentry "Fedora \\"x\\" (1)" --id {KNOWN} {{
    insmod fat
    chainloader /EFI/Linux/bootc/bootc_composefs-{KNOWN}.efi
}}
submenu 'more' {{ menuentry inner {{ true }} }}
if [ "${{x}}" = y ]; then menuentry z {{ # }}
}} fi
""".encode()


def _check_user_cfg(data: bytes) -> None:
    chunks = user_cfg.parse_user_cfg(data, known=_KNOWN)
    assert b"".join(chunk.raw for chunk in chunks) == data
    own = [chunk.entry for chunk in chunks if chunk.entry is not None and chunk.entry.is_own]
    rendered = user_cfg.render_user_cfg(chunks, own)
    again = user_cfg.parse_user_cfg(rendered, known=_KNOWN)
    assert [chunk.entry.digest for chunk in again if chunk.entry is not None and chunk.entry.is_own] == [
        one.digest for one in own
    ]
    # Whatever is not ours keeps its bytes and its order.
    strange = b"".join(chunk.raw for chunk in chunks if chunk.entry is None or not chunk.entry.is_own)
    left = b"".join(chunk.raw for chunk in again if chunk.entry is None or not chunk.entry.is_own)
    assert left.replace(b"\n", b"") == strange.replace(b"\n", b"")


_GRUBENV = (grubenv.GRUBENV_HEADER + b"saved_entry=abc\nnext_entry=1\na=x\\\\\\\nsaved_entry=y\nlong=1\n").ljust(
    1024, b"#"
)


def _check_grubenv(data: bytes) -> None:
    raw, value = split(data, 2)
    before = grubenv.parse_grubenv(raw)
    for override in grubenv.collect_grub_overrides(raw, None):
        grubenv.find_grub_match(override, [entry.parse_entry(b"a.conf", _ENTRY, known=_KNOWN)])
    for key in grubenv.GRUBENV_KEYS.values():
        changed = grubenv.replace_grubenv_value(raw, key, value)
        if changed is None:
            continue
        assert len(changed) == len(raw)
        assert grubenv.parse_grubenv(changed) == {**before, key: value}


_LOADER_CONF = b"timeout 3\ndefault bootc-*\n#default x\ndefault  @saved \npreferred a.conf\r\n"


def _check_loader_conf(data: bytes) -> None:
    raw, value = split(data, 2)
    value = bytes(byte for byte in value if byte > ord(" ") and byte not in b"\"'@") or b"new.conf"
    before = entry.parse_text(raw)
    for key in (b"default", b"preferred"):
        found = systemd_boot.parse_loader_conf(raw, key)
        assert found is None or found in before.find_all(key)
        changed = systemd_boot.replace_loader_conf(raw, value, key)
        after = entry.parse_text(changed)
        assert [name for name, _ in after.fields] == [name for name, _ in before.fields]
        if found is not None:
            assert systemd_boot.parse_loader_conf(changed, key) == value
        assert after.find_all(key)[:-1] == before.find_all(key)[:-1]


def _check_versions(data: bytes) -> None:
    left, right = split(data, 2)
    for compare in (version.compare_uapi, version.compare_rpm):
        assert compare(left, left) == 0
        one, two = compare(left, right), compare(right, left)
        assert (one > 0) - (one < 0) == -((two > 0) - (two < 0))


def _check_override(data: bytes) -> None:
    menu = [entry.parse_entry(name, _ENTRY, known=_KNOWN) for name in (b"a.conf", b"b+3.conf", data[:200] + b".conf")]
    grubenv.find_grub_match(LoaderOverride(OverrideKind.GRUB_SAVED, data), menu)
    assert parse_loader_info(data.decode("utf-8", "replace")) in list(type(parse_loader_info(None)))


TARGETS = (
    Target(
        "an_entry_keeps_all_but_its_sort_key",
        _check_entry,
        lambda: (
            b"bootc_fedora-1-1+3-0.conf\xff\n" + _ENTRY + b"\xff\nnew",
            b'x.conf\xff\ntitle "q"\r\n# c\r\nefi \\EFI\\x.efi',
            b"x.conf\xff\nsort-key a\rsort-key b\n\tsort-key\tc\nuki /a/b.efi",
        ),
    ),
    Target("user_cfg_keeps_what_is_not_ours", _check_user_cfg, lambda: (_USER_CFG, b"menuentry a {", b"submenu {}}")),
    Target("a_grubenv_keeps_its_other_variables", _check_grubenv, lambda: (_GRUBENV, _GRUBENV + b"\xff\nv\n\\")),
    Target("loader_conf_keeps_its_other_lines", _check_loader_conf, lambda: (_LOADER_CONF, _LOADER_CONF + b"\xff\nv")),
    Target(
        "versions_compare_both_ways_alike",
        _check_versions,
        lambda: (b"1.2~rc1\xff\n1.2", b"6.1-3^a\xff\n6.01-3", b"a+b"),
        max_bytes=256,
    ),
    Target("an_override_of_any_bytes_picks_or_not", _check_override, lambda: (b"a", b"systemd-boot 257", b"12", b"b")),
)
