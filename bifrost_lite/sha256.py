"""SHA-256 from the interpreter itself.

hashlib would do, but it loads OpenSSL's library where there is one, for 3.6 MB, and a
router's slim Python has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha2 import sha256
    except ImportError:  # before Python 3.12
        from _sha256 import sha256

__all__ = ("sha256",)
