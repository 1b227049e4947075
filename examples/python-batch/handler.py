"""A Penstock handler: a POST brings several messages, and each gets its verdict."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def handle(order):
    """The work. Raise OSError (ConnectionError, TimeoutError) for what may pass."""
    if order["amount"] < 0:
        raise ValueError("negative amount")


def verdict(event):
    try:
        handle(event["data"])
        return "done"
    except OSError as error:
        return {"verdict": "retry", "reason": str(error)}
    except (KeyError, TypeError, ValueError) as error:
        return {"verdict": "deadLetter", "reason": repr(error)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep the connection for the next batch
    disable_nagle_algorithm = True

    def do_POST(self):
        events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"verdicts": [verdict(event) for event in events]}).encode()
        self.send_response_only(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Handler).serve_forever()
