"""A Penstock handler: each message is one POST, the status is the verdict."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

handled = count(1)


def handle(order, topic, partition, offset):
    """The work. Raise OSError (ConnectionError, TimeoutError) for what may pass."""
    number = next(handled)
    if number % 10_000 == 0:
        print(f"{number} orders, the last from {topic}/{partition}@{offset}: {order}", flush=True)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep the connection for the next message
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place = (self.headers.get(f"ce-kafka{part}") for part in ("topic", "partition", "offset"))
        try:
            handle(json.loads(body), *place)
            status = 204  # handled
        except OSError:
            status = 503  # try again, up to delivery.maxAttempts times
        except ValueError:
            status = 422  # no use trying again
        self.send_response_only(status)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # all of maxConcurrency may connect at once; the default is 5


if __name__ == "__main__":
    # On all addresses: the kubelet asks at the pod's own.
    Server(("", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
