"""Runs baseplate's Kafka consumer on a topic and prints what the messages cost."""

from gevent.monkey import patch_all

patch_all()

import argparse
import json
import os
import socket
import time

from baseplate import Baseplate
from baseplate.frameworks.queue_consumer import kafka
from baseplate.server import queue_consumer


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["fast", "in-order"], required=True)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--handlers", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    return parser.parse_args()


def status(name):
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(name + ":"):
                return int(line.split()[1])
    return 0


class Meter:
    """Counts messages; at the last it prints the result and ends the process."""

    def __init__(self, count):
        self.count = max(count, 2)
        self.seen = 0

    def handle(self, context, data, message):
        self.seen += 1
        if self.seen == 1:
            self.first, self.cpu = time.perf_counter(), time.process_time()
        elif self.seen == self.count:
            self.report()

    def report(self):
        seconds = time.perf_counter() - self.first
        cpu = time.process_time() - self.cpu
        result = {
            "messages": self.count - 1,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "switches": None,
            "peak_rss_kib": status("VmHWM"),
        }
        print(json.dumps(result), flush=True)
        os._exit(0)


def main():
    args = arguments()
    meter = Meter(args.count)
    group = f"bench_{os.getpid()}_{time.time_ns()}"
    factories = {
        "fast": kafka.FastConsumerFactory,
        "in-order": kafka.InOrderConsumerFactory,
    }
    # Without a name space for its metrics the consumer fails at the first message;
    # without an endpoint they are dropped.
    baseplate = Baseplate({"metrics.namespace": "bench"})
    baseplate.configure_observers()
    factory = factories[args.mode].new(
        name=f"kafka_consumer.{group}",
        baseplate=baseplate,
        bootstrap_servers=args.bootstrap,
        group_id=f"bench.{group}",
        topics=[args.topic],
        handler_fn=meter.handle,
        kafka_consume_batch_size=args.batch,
        kafka_config={"auto.offset.reset": "earliest"},
    )
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    handlers = args.handlers if args.mode == "fast" else 1
    server = queue_consumer.make_server({"max_concurrency": str(handlers)}, listener, factory)
    server.start()
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
