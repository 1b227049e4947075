"""What the messages of the contract's test ask of a handler, by their header `probe`."""

import os

# Longer than the consumer's timeout, in seconds.
TOO_LONG = 4.5

# How often each message came, by partition and offset.
seen = {}


def note(partition, offset, attempt):
    """Writes down that a message has come. Returns how often it came before."""
    with open(os.environ["CONTRACT_JOURNAL"], "a") as journal:
        journal.write(f"{partition} {offset} {attempt}\n")
    before = seen.get((partition, offset), 0)
    seen[partition, offset] = before + 1
    return before
