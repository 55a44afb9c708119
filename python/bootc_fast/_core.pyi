from collections.abc import Callable
from typing import TypeAlias

# Polled every 20 ms of work; what it raises ends the call (spec core.md, "Python boundary").
_Check: TypeAlias = Callable[[], object] | None

__version__: str

def digest_fd(
    fd: int, *, algorithm: str = "sha512", block_bytes: int = 4096, salt: bytes | None = None, check: _Check = None
) -> str: ...
