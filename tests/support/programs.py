"""Text for the Python programs that a test runs by themselves, because they fork or end."""

from __future__ import annotations

# A daemon thread that works for ever. The program goes on when the first call has come back and another one is at work.
FOREVER = """
import threading, time
def forever(work):
    begun = threading.Event()
    def run():
        while True:
            work()
            begun.set()
    threading.Thread(target=run, daemon=True).start()
    assert begun.wait(60)
    time.sleep(0.05)
"""
