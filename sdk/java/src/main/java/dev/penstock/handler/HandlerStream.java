package dev.penstock.handler;

import penstock.handler.v1.HandlerOuterClass.FromHandler;
import penstock.handler.v1.HandlerOuterClass.FromRuntime;

/** The handler's side of a stream of another kind than gRPC, as for tests. */
public interface HandlerStream {
    /** Takes a message of the runtime. */
    void receive(FromRuntime message);

    /** The runtime has ended its side: the stream ends when what it sent was handled. */
    void drain();

    /** The stream is lost. */
    void lose();

    /** The runtime's side. */
    interface Peer {
        /**
         * Sends an answer, and returns when it is written. One thread calls it.
         *
         * @throws Exception if the stream is lost
         */
        void send(FromHandler answer) throws Exception;

        /** Ends the stream in order, or with an error if the text is not null. */
        void end(String error);
    }
}
