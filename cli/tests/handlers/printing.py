"""The example's handler with other work: prints each message's place and waits.

Usage: printing.py [SECONDS]. Values that hold "poison" are refused (422), values
that hold "later" are to be tried again (503).
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples/python"))
sys.dont_write_bytecode = True
import handler  # noqa: E402
import os  # noqa: E402

PAUSE = float(sys.argv[1]) if len(sys.argv) > 1 else 0


def handle(order, topic, partition, offset):
    if "poison" in order:
        raise ValueError("poison")
    if "later" in order:
        raise OSError("later")
    if PAUSE:
        print(f"begin {topic} {partition} {offset}", flush=True)
        time.sleep(PAUSE)
    print(f"handled {topic} {partition} {offset} {order.get('n')}", flush=True)


handler.handle = handle
handler.Server(("127.0.0.1", int(os.environ["PORT"])), handler.Handler).serve_forever()
