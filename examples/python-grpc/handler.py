"""A Penstock handler over gRPC: an exception is the verdict."""

import json
from itertools import count

import penstock

handled = count(1)


def handle(message: penstock.Message) -> None:
    order = json.loads(message.value)
    if order.get("amount", 0) < 0:
        raise penstock.DeadLetter(f"order {order['id']} has a negative amount")
    number = next(handled)
    if number % 10_000 == 0:
        print(f"{number} orders, the last {message.id}: {order}", flush=True)


if __name__ == "__main__":
    penstock.serve(handle, concurrency=4, permanent=(ValueError, KeyError))
