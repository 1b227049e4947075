package dev.penstock.handler;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import penstock.handler.v1.HandlerOuterClass;
import penstock.handler.v1.HandlerOuterClass.FromHandler;
import penstock.handler.v1.HandlerOuterClass.Record;
import penstock.handler.v1.HandlerOuterClass.Verdict.OutcomeCase;

class AnswersTest {
    private final List<FromHandler> sent = new ArrayList<>();
    private final Answers answers = new Answers(Session.welcome(), new HandlerStream.Peer() {
        @Override
        public void send(FromHandler answer) {
            sent.add(answer);
        }

        @Override
        public void end(String error) {}
    });

    private static Call call(long id) {
        return new Call(null, null, id, null, null, null);
    }

    private void flush() {
        answers.close();
        answers.run();
    }

    @Test
    void aCallThatEndsWithinAnAnswerNeedsNoReportThatItBegins() {
        List.of(1L, 2L, 4L, 5L).forEach(id -> answers.begin(List.of(call(id))));
        answers.settle(2, Judgement.DONE);
        answers.settle(1, Judgement.DONE);
        answers.grant(3);
        flush();
        assertEquals(1, sent.size());
        FromHandler answer = sent.get(0);
        assertEquals(1, answer.getBegunCount());
        assertEquals(4, answer.getBegun(0).getFirstId());
        assertEquals(2, answer.getBegun(0).getCount());
        assertEquals(1, answer.getVerdictsCount());
        assertEquals(1, answer.getVerdicts(0).getFirstId());
        assertEquals(2, answer.getVerdicts(0).getCount());
        assertEquals(OutcomeCase.DONE, answer.getVerdicts(0).getOutcomeCase());
        assertEquals(3, answer.getCredits());
    }

    @Test
    void answersAreCutAtAMebibyte() {
        for (long id = 0; id < 300; id++) {
            answers.settle(id, Judgement.of(Verdict.fail("a".repeat(16_000))));
        }
        answers.grant(3);
        flush();
        assertEquals(300, sent.stream().mapToInt(FromHandler::getVerdictsCount).sum());
        assertTrue(sent.size() >= 5);
        for (int index = 0; index < sent.size(); index++) {
            assertTrue(sent.get(index).getSerializedSize() <= Answers.MAX_ANSWER);
            assertEquals(index == 0, sent.get(index).hasWelcome());
            assertEquals(index == sent.size() - 1 ? 3 : 0, sent.get(index).getCredits());
        }
    }

    @Test
    void aLargeVerdictHasAnAnswerForItself() {
        Record record = Record.newBuilder().setTopic("a")
                .setValue(com.google.protobuf.ByteString.copyFrom(new byte[3 << 20])).build();
        answers.settle(1, Judgement.of(Verdict.fail("before")));
        answers.settle(2, Judgement.done(List.of(record)));
        answers.settle(3, Judgement.of(Verdict.fail("behind")));
        flush();
        List<List<Long>> ids = sent.stream()
                .map(answer -> answer.getVerdictsList().stream().map(HandlerOuterClass.Verdict::getFirstId).toList())
                .toList();
        assertEquals(List.of(List.of(1L), List.of(2L), List.of(3L)), ids);
    }

    @Test
    void whoWaitsForAReportContinuesWhenTheStreamIsLost() {
        var written = answers.begin(List.of(call(1)));
        answers.end();
        assertTrue(written.isDone());
        assertTrue(answers.begin(List.of(call(2))).isDone());
        flush();
        assertEquals(List.of(), sent);
    }
}
