"""A handler of HTTP that does what the header `behaviour` of a message says, and handles a message
without one. It writes its answers byte by byte, as no server's library would send most of them.

`handler.py http` takes one message in a request, `handler.py batch-http` several. `--list` prints
the behaviours. Each message that comes writes partition, offset and attempt to HOSTILE_JOURNAL.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from urllib.parse import parse_qsl

import answers

# How long it is away that is away for a while, in seconds.
WHILE = 2.5

# With this code the supervisor starts it again after three seconds.
AWAY = 75


class Message:
    """A message of a request."""

    def __init__(self, partition, offset, attempt, headers):
        self.place = (int(partition), int(offset))
        self.attempt = int(attempt)
        times = headers.get("times")
        is_hostile = times is None or self.attempt <= int(times)
        self.behaviour = headers.get("behaviour") if is_hostile else None


def message_of(headers, body):
    prefix = "kafka-header-"
    own = {name.removeprefix(prefix): it for name, it in headers.items() if name.startswith(prefix)}
    place = (headers["ce-kafkapartition"], headers["ce-kafkaoffset"], headers["ce-attempt"])
    return [Message(*place, own)]


def messages_of(headers, body):
    events = json.loads(body)
    return [
        Message(
            event["kafkapartition"],
            event["kafkaoffset"],
            event["attempt"],
            dict(parse_qsl(event.get("kafkaheaders", ""))),
        )
        for event in events
    ]


class Handler:
    """What all connections share."""

    def __init__(self, path, read_messages):
        self.path = path
        self.read_messages = read_messages
        self.lock = threading.Lock()
        self.seen = {}
        self.connections = set()
        self.journal = open(os.environ["HOSTILE_JOURNAL"], "a", buffering=1)
        self.listener = None

    def listen(self):
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        listener = self.listener
        threading.Thread(target=self.accept, args=[listener], daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections.add(connection)
            threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def stop_listening(self):
        """Accepts nothing for a while, and closes all connections."""
        listener = self.listener
        # Ends the wait in accept, which closing does not.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        os.unlink(self.path)
        for connection in list(self.connections):
            close(connection)
        threading.Timer(WHILE, self.listen).start()

    def note(self, message):
        """Writes down that a message has come. Returns how often it came before."""
        with self.lock:
            before = self.seen.get(message.place, 0)
            self.seen[message.place] = before + 1
            partition, offset = message.place
            self.journal.write(f"{partition} {offset} {message.attempt}\n")
        return before

    def serve(self, connection):
        try:
            self.converse(connection)
        except OSError:
            # The runtime has left, or this side has closed it.
            pass
        finally:
            self.connections.discard(connection)
            close(connection)

    def converse(self, connection):
        # Without a buffer, so that it can leave a byte unread.
        reader = connection.makefile("rb", buffering=0)
        while head := read_head(reader):
            body = b""
            while (rest := int(head["content-length"]) - 1 - len(body)) > 0:
                if not (more := reader.read(rest)):
                    return
                body += more
            # The last byte of a list is known.
            messages = self.read_messages(head, body + b"]")
            counts = [self.note(message) for message in messages]
            if any(message.behaviour == RESET for message in messages):
                return
            reader.read(1)
            talk = Talk(self, connection, messages, counts)
            if not talk.answer():
                return


class Talk:
    """One request, and what is answered to it."""

    def __init__(self, handler, connection, messages, counts):
        self.handler = handler
        self.connection = connection
        self.messages = messages
        self.counts = counts

    def answer(self):
        """Answers. Returns `False` if the connection takes no other request.

        What a batch is answered for one message must not settle another hostile one: it is
        without an answer then, so that each comes alone.
        """
        odd = [place for place, it in enumerate(self.messages) if self.is_odd(it)]
        hostile = [it for it in self.messages if it.behaviour]
        if odd and len(hostile) > 1:
            odd = [place for place in odd if self.messages[place].behaviour not in SETTLES]
            if not odd:
                return False
        if not odd:
            return self.send(answers.verdicts(self.verdicts()) if BATCHES else answers.DONE)
        place = odd[0]
        if act := ACTIONS.get(self.messages[place].behaviour):
            return act(self, self.counts[place]) is not False
        write = WHOLE[self.messages[place].behaviour]
        return self.send(*write(self.verdicts(), place))

    @staticmethod
    def is_odd(message):
        return message.behaviour in ACTIONS or message.behaviour in WHOLE

    def verdicts(self):
        return [answers.VERDICTS.get(it.behaviour, "done") for it in self.messages]

    def send(self, data, goes_on=True):
        self.connection.sendall(data)
        return goes_on

    def done(self):
        self.send(answers.DONE)


def read_head(reader):
    if not reader.readline():
        return None
    headers = {}
    while (line := reader.readline().strip()) and b":" in line:
        name, _, value = line.partition(b":")
        headers[name.decode().lower()] = value.strip().decode()
    return headers


def close(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


# The connection and the process.


def close_before_the_answer(talk, count):
    return False


def close_at_the_next_request(talk, count):
    talk.done()
    # Another message's request comes, and is not read.
    talk.connection.recv(1, socket.MSG_PEEK)
    return False


def close_without_a_word(talk, count):
    talk.done()
    return False


def exit_before_the_answer(talk, count):
    os._exit(1)


def exit_in_the_answer(talk, count):
    talk.send(answers.HALF)
    os._exit(1)


def exit_for_seconds(talk, count):
    os._exit(AWAY)


def exit_after_the_answer(talk, count):
    talk.done()
    os._exit(1)


def stop_listening(talk, count):
    if count > 0:
        return talk.done()
    talk.done()
    talk.handler.stop_listening()
    return False


# Time.


def never_answer(talk, count):
    talk.connection.recv(1)
    return False


def answer_after_its_time(talk, count):
    time.sleep(WHILE)
    talk.done()


def hang_in_the_answer(talk, count):
    talk.send(answers.HALF)
    talk.connection.recv(1)
    return False


def drip_the_head(talk, count):
    talk.send(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        talk.send(b"y")
        time.sleep(0.05)


def speak_in_the_interim(talk, count):
    while True:
        talk.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        time.sleep(0.01)


def ask_to_wait(talk, count):
    if count >= 3:
        return talk.done()
    talk.send(answers.answer("503 Later", headers=["retry-after: 0"]))


def ask_to_wait_for_years(talk, count):
    if count >= 1:
        return talk.done()
    talk.send(answers.answer("503 Later", headers=["retry-after: 9999999999"]))


def named(*functions):
    return {function.__name__.replace("_", "-"): function for function in functions}


BOTH = named(
    close_before_the_answer,
    close_at_the_next_request,
    close_without_a_word,
    exit_before_the_answer,
    exit_in_the_answer,
    exit_for_seconds,
    exit_after_the_answer,
    stop_listening,
    ask_to_wait,
    ask_to_wait_for_years,
)
ONE = named(never_answer, answer_after_its_time, hang_in_the_answer, drip_the_head, speak_in_the_interim)
SEVERAL = {"hang-in-a-batch": never_answer, "hang-in-the-answer-to-a-batch": hang_in_the_answer}

# It leaves a byte unread, so that the other side finds the connection reset.
RESET = "reset-before-the-answer"

# They settle all messages of their request, or return them.
SETTLES = answers.SETTLES | {
    "close-at-the-next-request",
    "close-without-a-word",
    "exit-after-the-answer",
    "stop-listening",
    "ask-to-wait",
    "ask-to-wait-for-years",
}

BATCHES = sys.argv[1] == "batch-http"
ACTIONS = BOTH | (SEVERAL if BATCHES else ONE)
WHOLE = answers.BOTH | (answers.SEVERAL if BATCHES else answers.ONE)


def main():
    if "--list" in sys.argv:
        verdicts = answers.VERDICTS if BATCHES else {}
        print("\n".join([RESET, *ACTIONS, *WHOLE, *verdicts]))
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    read_messages = messages_of if BATCHES else message_of
    Handler(os.environ["PENSTOCK_HANDLER_SOCKET"], read_messages).listen()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)


main()
