"""Comparing versions and file names the way each boot loader does.

All functions return a negative number, 0 or a positive number, as ``strcmp`` does: the greater one is the newer.
"""

from __future__ import annotations

_DIGITS = frozenset(b"0123456789")
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ALNUM = _DIGITS | _LETTERS
_TILDE, _PLUS, _ZERO, _DOT = b"~+0."
_END = 0


def _sign(left: int | bytes, right: int | bytes) -> int:
    if isinstance(left, bytes) and isinstance(right, bytes):
        return (left > right) - (left < right)
    return (int(left) > int(right)) - (int(left) < int(right))


def _segment_end(text: bytes, start: int, kind: frozenset[int]) -> int:
    end = start
    while end < len(text) and text[end] in kind:
        end += 1
    return end


def _compare_segments(left: bytes, right: bytes, *, is_number: bool) -> int:
    if is_number:
        left, right = left.lstrip(b"0"), right.lstrip(b"0")
        if len(left) != len(right):
            return _sign(len(left), len(right))
    return _sign(left, right)


def _skip_separators(text: bytes, at: int) -> int:
    """Skip what has no meaning in a UAPI version."""
    while at < len(text) and text[at] not in _ALNUM and text[at] not in b"~-^.":
        at += 1
    return at


def compare_uapi(left: bytes | None, right: bytes | None) -> int:
    """Compare as systemd-boot does; None counts as empty.

    The crate ``uapi-version`` (0.4.0) is not used: it holds 00123 for newer than 123, which systemd-boot does not.

    Source:
        UAPI version format specification; systemd ``strverscmp_improved``.
    """
    one, two = left or b"", right or b""
    i = j = 0
    while True:
        i, j = _skip_separators(one, i), _skip_separators(two, j)
        # A separator makes what follows older than what has none; the end is newer than `~` and older than the rest.
        for separator in (b"~", b"", b"-", b"^", b"."):
            if not separator:
                if i == len(one) or j == len(two):
                    return _sign(i < len(one), j < len(two))
                continue
            has_left, has_right = one.startswith(separator, i), two.startswith(separator, j)
            if has_left != has_right:
                return -1 if has_left else 1
            if has_left:
                i, j = i + 1, j + 1
        digits = (one[i : i + 1].isdigit(), two[j : j + 1].isdigit())
        kind = _DIGITS if any(digits) else _LETTERS
        if any(digits) and not all(digits):
            return 1 if digits[0] else -1
        i_end, j_end = _segment_end(one, i, kind), _segment_end(two, j, kind)
        order = _compare_segments(one[i:i_end], two[j:j_end], is_number=any(digits))
        if order:
            return order
        i, j = i_end, j_end


def _compare_separator(one: int, two: int) -> int | None:
    """``~`` is older than everything, the end too; ``+`` is newer than the end and older than all else.

    Returns:
        None where neither character is one of the two; 0 where both are the same one.
    """
    if _TILDE in (one, two):
        return _sign(one == _TILDE, two == _TILDE) * -1
    if _PLUS in (one, two):
        if _END in (one, two):
            return _sign(one, two)
        return _sign(one == _PLUS, two == _PLUS) * -1
    return None


def compare_rpm(left: bytes, right: bytes) -> int:
    """Compare as Fedora's GRUB does: RPM's rules with ``~`` and ``+``, without ``^``.

    Not what today's librpm does: that has ``^`` and knows no ``+``.

    Source:
        Fedora's GRUB, ``grub-core/commands/blscfg.c``, ``vercmp``.
    """
    i = j = 0
    keep = _ALNUM | {_TILDE, _PLUS}
    while i < len(left) or j < len(right):
        while i < len(left) and left[i] not in keep:
            i += 1
        while j < len(right) and right[j] not in keep:
            j += 1
        one = left[i] if i < len(left) else _END
        two = right[j] if j < len(right) else _END
        separator = _compare_separator(one, two)
        if separator:
            return separator
        if separator == 0:
            i, j = i + 1, j + 1
            continue
        if _END in (one, two):
            break
        kind = _DIGITS if one in _DIGITS else _LETTERS
        if two not in kind:
            return 1 if kind is _DIGITS else -1
        i_end, j_end = _segment_end(left, i, kind), _segment_end(right, j, kind)
        order = _compare_segments(left[i:i_end], right[j:j_end], is_number=kind is _DIGITS)
        if order:
            return order
        i, j = i_end, j_end
    return _sign(i < len(left), j < len(right))


def _file_prefix_length(name: bytes) -> int:
    r"""Length of a name without its suffix ``(\.[A-Za-z~][A-Za-z0-9~]*)*`` at the end."""
    first, later = _LETTERS | {_TILDE}, _ALNUM | {_TILDE}
    i = 0
    while True:
        prefix = i
        while i + 1 < len(name) and name[i] == _DOT and name[i + 1] in first:
            i = _segment_end(name, i + 2, later)
        if i >= len(name):
            return prefix
        i += 1


def _order(text: bytes, position: int) -> int:
    if position == len(text):
        return -1
    char = text[position]
    if char in _DIGITS:
        return 0
    if char in _LETTERS:
        return char
    return -2 if char == _TILDE else char + 256


def _compare_debian(left: bytes, right: bytes) -> int:
    i = j = 0
    while i < len(left) or j < len(right):
        while (i < len(left) and left[i] not in _DIGITS) or (j < len(right) and right[j] not in _DIGITS):
            order = _order(left, i) - _order(right, j)
            if order:
                return order
            i, j = i + 1, j + 1
        i_end, j_end = _segment_end(left, i, _DIGITS), _segment_end(right, j, _DIGITS)
        order = _compare_segments(left[i:i_end], right[j:j_end], is_number=True)
        if order:
            return order
        i, j = i_end, j_end
    return 0


def compare_file_names(left: bytes, right: bytes) -> int:
    """Compare as ``ls -v`` does, which upstream GRUB's ``blscfg`` uses.

    Source:
        gnulib ``lib/filevercmp.c``; GRUB 2.14 ``grub-core/commands/blsuki.c``, ``blsuki_add_entry``.
    """
    if not left or not right:
        return _sign(left, right)
    for special in (b".", b".."):
        if special in (left, right):
            return _sign(left != special, right != special)
    if left.startswith(b".") != right.startswith(b"."):
        return -1 if left.startswith(b".") else 1
    left_prefix, right_prefix = _file_prefix_length(left), _file_prefix_length(right)
    result = _compare_debian(left[:left_prefix], right[:right_prefix])
    if result or (left_prefix == len(left) and right_prefix == len(right)):
        return result
    return _compare_debian(left, right)
