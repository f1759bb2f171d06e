"""Whether this process is about to end, for answers that would otherwise go on.

while not stopping.wait(1): yield ...
"""

from __future__ import annotations

import threading

stopping = threading.Event()
"""Set once the server was asked to stop: answers in progress end, streams at their next step."""
