"""The pages of section 5: one for each policy file; keys and values come from what reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bootc_fast.etc.policy import MACHINE_MADE, PATH_KEYS
from bootc_fast.report.policies import KINDS
from manual.pages import make_page
from manual.roff import escape

if TYPE_CHECKING:
    from bootc_fast.machine.policy_file import Key
    from bootc_fast.report.policies import Kind
    from manual.roff import Page


class Prose(NamedTuple):
    """What a page says beside the keys.

    Attributes:
        rules: How files and entries come together, and what happens with mistakes.
        examples: Heading, and a whole file.
        see: Other pages.
    """

    rules: str
    examples: tuple[tuple[str, str], ...]
    see: tuple[str, ...]


_LAYERS = "`{admin}`, the administrator's, overrides `{vendor}`, which comes with the image, key by key."
_PASSED_OVER = "A file that cannot be understood is passed over with a warning, and an update is applied all the same."
_PATTERNS = """\
A pattern is matched against the whole path below /etc; a leading `/etc/` or `/` does not count. `*` and `?` match any
characters and one character, never a slash; `**` as a whole name matches any number of names, also none: `a/**` is
everything in `a`, `**/x` an `x` anywhere. `[a-z]` and `[!a-z]` are sets, and a backslash takes the next character as it
is."""

PROSE = {
    "merge.toml": Prose(
        "What is changed on one side only is always kept, and so are changes of different attributes of one file. A "
        "conflict is what cannot be joined: by default it stops the update before anything is written, with exit code "
        "5.\n\nThe entries of `{admin}` come before those of `{vendor}`, and its default overrides the other's. Of "
        "several entries that match a path, the first one counts. --on-conflict of "
        "bootc-fast-composefs-finalize-staged(8) comes before all of them.\n\nOf what loses, a copy is kept beside the "
        "winner: `NAME.bootc-new` is the new image's version, `NAME.bootc-saved` the one that was in /etc.\n\nUnknown "
        "keys and values are errors, with exit code 10: a policy that is understood in part only would decide wrongly "
        "one day.",
        (
            (
                "Nothing stops an update; sshd's settings stay the administrator's:",
                'default = "new"\n\n[[path]]\npattern = "ssh/sshd_config.d/*"\non-conflict = "current"\n',
            ),
            (
                "The image's udev rules win, also where that is no conflict:",
                '[[path]]\npattern = "udev/**"\non-conflict = "new"\non-both-changed = "new"\n',
            ),
        ),
        ("bootc-fast-etc(8)", "bootc-fast-composefs-finalize-staged(8)"),
    ),
    "boot.toml": Prose(
        f"{_LAYERS} What `bootc-fast pin` pins is added.\n\n{_PASSED_OVER}\n\nEvery deployment that stays takes space "
        "on the boot partition, and with more than two bootc's own rollback refuses to work.",
        (("Three deployments stay bootable:", "keep = 3\n"),),
        ("bootc-fast-pin(8)", "bootc-fast-status(8)"),
    ),
    "trial.toml": Prose(
        f"{_LAYERS} It has two tables.\n\n{_PASSED_OVER}",
        (
            (
                "A unit that failed is unhealthy, but for one; all checks have five minutes together:",
                '[health]\ntimeout = 300\nno-failed-units = true\nfailed-units-except = ["example.service"]\n',
            ),
            (
                "A new deployment is tried five times; what is not healthy stays up for somebody to look at it:",
                '[trial]\ntries = 5\non-failure = "stay"\n',
            ),
        ),
        ("bootc-fast-health(8)", "bootc-fast-forget-failure(8)"),
    ),
}


def make_policy(kind: Kind) -> str:
    """The page of one policy file."""
    prose = PROSE[kind.name]
    vendor, admin = (f"/{path}" for path in kind.paths)
    page = make_page(f"bootc-fast-{kind.name}", 5)
    page.name([f"bootc-fast-{kind.name}"], kind.about)
    page.section("SYNOPSIS")
    page.raw(f".I {escape(vendor)}\n.br\n.I {escape(admin)}")
    page.section("DESCRIPTION")
    page.text(f"TOML. {prose.rules.format(vendor=vendor, admin=admin)}")
    page.text("`bootc-fast policy check` says what holds on a host, where each value comes from, and what is wrong.")
    page.section("KEYS")
    for table in kind.tables:
        if table.name:
            page.subsection(f"[{table.name}]")
        _write_keys(page, table.keys)
    if kind.name == "merge.toml":
        page.subsection("[[path]]")
        page.text("Each entry has a pattern, and one of the others or both.")
        _write_keys(page, PATH_KEYS)
        page.section("PATTERNS")
        page.text(_PATTERNS)
        page.section("BUILT IN")
        page.text("What programs make anew is the new image's where both sides changed it, and nothing is kept:")
        page.example([rule.pattern for rule in MACHINE_MADE])
    page.section("EXAMPLES")
    for heading, example in prose.examples:
        page.text(heading)
        page.example(example.rstrip("\n").split("\n"))
    page.section("SEE ALSO")
    names = [*prose.see, "bootc-fast-policy(8)", "bootc-fast(8)"]
    for name in names:
        title, _, section = name.partition("(")
        page.raw(f'.BR "{escape(title)}" ({section}{"" if name == names[-1] else ","}')
    return str(page)


def _write_keys(page: Page, keys: tuple[Key, ...]) -> None:
    for key in keys:
        values, _, default = key.values.partition("; ")
        standard = "" if not default else f" ({default})" if "missing" in default else f" (default: {default})"
        page.item(rf"\fB{escape(key.name)}\fR", f"{key.meaning[0].upper()}{key.meaning[1:]}: {values}{standard}.")


def all_policies() -> dict[str, str]:
    """Every page of section 5, by file name."""
    return {f"bootc-fast-{kind.name}.5": make_policy(kind) for kind in KINDS}
