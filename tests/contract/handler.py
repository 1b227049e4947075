"""A handler that opens its stream with the recorded bytes of a fixture.

It speaks the contract by the numbers of its fields, which are frozen here, and does what the
fixture says that its SDK can.
"""

import json
import os
import queue
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import probes
from wire import each, fields, first, nested, number

FIXTURE = json.loads(os.environ["CONTRACT_FIXTURE"])
CAN = FIXTURE.get("can", [])
SERVICE = FIXTURE.get("service", "penstock.handler.v1.Handler")

END = object()

# Verdicts by the numbers of their fields.
DONE, RETRY, SKIP, RELEASE = 3, 4, 5, 8


def say(answers, *parts):
    answers.put(b"".join(parts))


def begun(number_of_delivery):
    if "begun" not in CAN:
        return b""
    return nested(4, number(1, number_of_delivery) + number(2, 1))


def verdict(number_of_delivery, outcome):
    # With it the credit comes back.
    entry = number(1, number_of_delivery) + number(2, 1) + nested(outcome, b"")
    return nested(2, entry) + number(1, 1)


def extension(number_of_delivery, time_ms):
    deliveries = number(1, number_of_delivery) + number(2, 1)
    return nested(5, nested(1, deliveries) + number(2, time_ms))


def later(answers, message):
    threading.Timer(probes.TOO_LONG, answers.put, [message]).start()


def take(answers, partition, delivery, given):
    before = probes.note(partition, first(given, 1), first(given, 6))
    headers = {first(it, 1): first(it, 2) for it in each(given, 5)}
    probe = headers.get(b"probe", b"").decode()
    done = verdict(delivery, DONE)
    if probe == "skip":
        say(answers, begun(delivery), verdict(delivery, SKIP))
    elif before > 0 or not probe:
        say(answers, begun(delivery), done)
    elif probe == "wait":
        later(answers, begun(delivery) + done)
    elif probe == "return":
        say(answers, verdict(delivery, RELEASE if "release" in CAN else RETRY))
    elif probe == "extend":
        say(answers, begun(delivery))
        if "extend" in CAN:
            say(answers, extension(delivery, 8000))
        later(answers, done)


def read(requests, answers):
    try:
        for request in requests:
            for field, body in fields(request):
                if field == 1:
                    print("hello", *(f"{name}={value!r}" for name, value in fields(body)), flush=True)
                elif field == 2:
                    take_batch(answers, body)
    except grpc.RpcError:
        print("the runtime left the stream", flush=True)
    answers.put(END)


def take_batch(answers, batch):
    delivery = first(batch, 1)
    for run in each(batch, 3):
        for given in each(run, 4):
            take(answers, first(run, 2), delivery, given)
            delivery += 1


def handle(requests, context):
    if "refuse" in FIXTURE:
        print("refused the stream:", FIXTURE["refuse"], flush=True)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, FIXTURE["refuse"])
    answers = queue.Queue()
    threading.Thread(target=read, args=[requests, answers], daemon=True).start()
    yield bytes.fromhex(FIXTURE["first"])
    while (answer := answers.get()) is not END:
        yield answer


class Log(grpc.ServerInterceptor):
    """Says which calls have no method here."""

    def intercept_service(self, continuation, details):
        method = continuation(details)
        if method is None:
            print(f'called "{details.method}", and serves "{SERVICE}"', flush=True)
        return method


def main():
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[Log()])
    serving = grpc.unary_unary_rpc_method_handler(lambda request, context: number(1, 1))
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                SERVICE, {"Handle": grpc.stream_stream_rpc_method_handler(handle)}
            ),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": serving}),
        ]
    )
    server.add_insecure_port("unix:" + os.environ["PENSTOCK_HANDLER_SOCKET"])
    server.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
main()
