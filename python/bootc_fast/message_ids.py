"""Journal message ids, 32 hex digits each; the message catalog in packaging/ explains every one to an admin."""

from __future__ import annotations

# Not from typing: importing that takes a tenth of the whole start-up.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


FINALIZE_STARTED: Final = "fe3be79c65704defbdd2314d0a8a8c46"
FINALIZE_DONE: Final = "84f1a89107f448fc9902dc7f18df5136"
FINALIZE_FAILED: Final = "3929ae7f69a74bbdbb81f945e47472d1"
FINALIZE_NOTHING: Final = "7464b3c7eb1f47a3a5f0a254d512533e"
BOOT_ORDER_CHANGED: Final = "315cd8a3d749491faae0bbb2dc0ebe26"
LAST_FINALIZE_FAILED: Final = "da4ea25a10494a2a95bc902145f52272"
RESTART_PREPARED: Final = "e05d0ba0f73e42e592d34909c48e81b3"
UPDATE_UNSTAGED: Final = "2a188392d893446e90c28fabcbe2c0d5"
UPDATE_HELD: Final = "7b3b5bb360fb46a3a3fca52c2eb45c5d"
PIN_CHANGED: Final = "77eec36680d945f5b7b2ff6a933bdc1f"
TRIAL_FAILED: Final = "841a92cbbd874d72beaa40edf8b56f9a"
TRIAL_PASSED: Final = "1a4e469233b34862a6207e1a75c02e07"
FELL_BACK: Final = "b6ba6c78524a44ff8f06465f779bafe4"
FAILURE_FORGOTTEN: Final = "8695aff6c9c043e48a2a0a25b0963c20"
HEALTH_JUDGED: Final = "4714b0e112fd432888307e2b6b354761"
# ostree's and bootc's own; tools look for it.
ROLLBACK: Final = "26f3b1eb24464d12aa5e7b544a6b5468"
