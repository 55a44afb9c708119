"""Boot entries with odd names, versions and sort-keys, for the real loaders to put in order."""

from __future__ import annotations

from bootc_fast.boot.loaders.entry import MenuEntry, parse_entry

KERNEL = "/table/kernel"

_VERSIONS = [
    *("0", "00", "1", "01", "1.0", "1.00", "1.0.0", "1.", "1-1", "1-", "1~rc1", "1~", "~1", "1^git", "^1", "1^"),
    *("1.5", "1_5", "1+5", "1 5", "10", "9", "a", "A", "b", "ab", "a1", "1a", "1.a", "1-a", "123_a", "00123", "123"),
    *("122.9", "43.20250101.0", "42.2", "43", "43~rc1", "43.1", "v2", "v10", "4.0~a1", "é", "1é", "%", "1%2"),
]
_SORT_KEYS = ["tA", "ta", "t a", "t-1", "t-10", "t-9", "té", "tz", "tü", "t\u20ac", "t\U0001f600", "t\uff5e", "t"]
_MACHINE_IDS = [None, "0" * 32, "a" * 32, "f" * 32]
_PLAIN_NAMES = [
    *("n-1", "n-01", "n-10", "n-9", "n_2", "n.2", "n~1", "n^1", "nn-5", "n-1.1", "n-1-1", "n", "n-a", "n-1~rc1"),
    *("0-first", "zz-last", "linux-6.10", "linux-6.9", "Upper-1", "lower-1"),
]
_COUNTED_NAMES = ["c+3", "c-2+0-3", "c-3+2-1", "c-4+2-2", "c-5+2", "c-6+x", "c-7+1-", "c+1+2", "c-8+0", "c-9+00-1"]


def make_systemd_table() -> dict[str, bytes]:
    """Entries that systemd-boot shows behind those of bootc, by file name."""
    table: dict[str, bytes] = {}

    def add(name: str, **fields: str | None) -> None:
        lines = [f"title {name}", f"linux {KERNEL}"]
        lines += [f"{key.replace('_', '-')} {value}" for key, value in fields.items() if value is not None]
        table[f"{name}.conf"] = ("\n".join(lines) + "\n").encode()

    for index, version in enumerate(_VERSIONS):
        # The index is scattered, so that ties are not already in order.
        add(f"v{index * 37 % 97:02}", version=version, sort_key="table")
    add("v-none", sort_key="table")
    for index, sort_key in enumerate(_SORT_KEYS):
        add(f"k{index * 7 % 17:02}", sort_key=sort_key)
    for index, machine_id in enumerate(_MACHINE_IDS):
        add(f"m{index * 3 % 5}", sort_key="table-machine", machine_id=machine_id)
    for name in (*_PLAIN_NAMES, *_COUNTED_NAMES):
        add(name)
    add("c-keyed+0", sort_key="aaa")
    add("c-keyed+1", sort_key="zz")
    return table


_GRUB_NAMES = [
    *("bootc_fedora-43-0", "bootc_fedora-42-1", "bootc_fedora-10-0", "bootc_fedora-9-1", "bootc_debian-13-1"),
    *("bootc-composefs-1", "bootc-composefs-0", "bootc_4mlinux-1-1", "bootc_zz-00000001-99", "bootc_zz-00000001-98"),
    *("bootc_zz-00000002-99", "bootd-00000001-99", "zz_bootc-1-1", "fedora-6.1-1", "kernel-a-5.14.0-362.fc38"),
    *("kernel-a-5.14.0-70.fc38", "a", "a-1", "a-1-1", "a-1~rc1-1", "a-1+git-1", "a-1^git-1", "a-1.1-1"),
    *("a.b", "a.b.c", "a.1", "a.1b", "a~", "a~b", "a-~", "A", "Z-1", "_a", "+a", "~a", ".hidden", "..b", "1"),
    *("10", "9", "9z", "a b", "a_b", "a-b", "a%b", "e\u0301", "\u00e9", "x-1.el9", "x-1.el10", "x-1.fc40", "x-1"),
    *("x-1-0", "x-1.0", "x-1..0", "x-1._0", "x.tar.gz", "x.tar", "x.conf", "debian-6.12.0+bpo-1"),
    *("debian-6.12.0-1", "debian-6.12.0~bpo-1", "auto-a", "0123456789abcdef0123456789abcdef-6.1.0-rc1"),
    *("0123456789abcdef0123456789abcdef-6.1.0", "0123456789abcdef0123456789abcdef-6.1.0-rescue"),
]

# Whether GRUB shows an entry at all; `T` stands for its title line.
_GRUB_TEXTS = [
    "# first\nT\nlinux /k\n",
    "T\nlinux\t/k\n",
    "T\nlinux     /k\n",
    "T\n  linux /k\n",
    "T\n\tlinux /k\n",
    "T\nlinux /k\nlinux /l\n",
    "T\nlinux /k\n\noptions x\n",
    "T\nlinux /k",
    "T\r\nlinux /k\r\n",
    "T\n#\nlinux /k\n",
    "\nT\nlinux /k\n",
    "T\n\nlinux /k\n",
    "T\n   \nlinux /k\n",
    "T\nversion\nlinux /k\n",
    "T\nversion \nlinux /k\n",
    "T\nuki /k.efi\n",
    "T\nefi /k.efi\n",
    "T\nlinux /k\nefi /k.efi\n",
    "T\nLINUX /k\n",
    "T\n",
]


def make_grub_table() -> dict[str, bytes]:
    """Entries for GRUB, by file name; each one's title is ``E`` and a number of three digits."""
    table = {f"{name}.conf": f"title E{index:03}\nlinux /k\n" for index, name in enumerate(_GRUB_NAMES)}
    for index, text in enumerate(_GRUB_TEXTS, 500):
        table[f"text-{index}.conf"] = text.replace("T", f"title E{index}", 1)
    table["suffix.CONF"] = "title E900\nlinux /k\n"
    table["suffix.conf.new"] = "title E901\nlinux /k\n"
    return {name: text.encode() for name, text in table.items()}


def make_equal_table() -> dict[str, bytes]:
    """Entries for GRUB, two of which compare equal: E002 and E003."""
    names = ("a-1", "b-1", "c-01", "c-1", "d-1", "e-1")
    return {f"{name}.conf": f"title E{index:03}\nlinux /k\n".encode() for index, name in enumerate(names)}


def parse_table(table: dict[str, bytes]) -> list[MenuEntry]:
    """What the program reads in a table."""
    return [parse_entry(name.encode(), raw, known=()) for name, raw in table.items()]
