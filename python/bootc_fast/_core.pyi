from collections.abc import Callable
from typing import TypeAlias

# Polled every 20 ms of work; what it raises ends the call (spec core.md, "Python boundary").
_Check: TypeAlias = Callable[[], object] | None

__version__: str

def digest_fd(
    fd: int, *, algorithm: str = "sha512", block_bytes: int = 4096, salt: bytes | None = None, check: _Check = None
) -> str: ...
def open_in_root(dir_fd: int, path: bytes, flags: int, mode: int = 0) -> int: ...
