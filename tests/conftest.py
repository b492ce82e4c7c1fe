"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell starts background jobs with interrupts ignored, and children inherit that; the tests of Ctrl-C send real ones.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
