package penstock

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"penstock.dev/sdk/go/handlerv1"
)

func callsOf(ids ...uint64) []*call {
	var calls []*call
	for _, id := range ids {
		calls = append(calls, &call{id: id})
	}
	return calls
}

func rangesOf(all []*handlerv1.Range) [][2]uint64 {
	var found [][2]uint64
	for _, one := range all {
		found = append(found, [2]uint64{one.FirstId, one.Count})
	}
	return found
}

func TestDeliveriesThatAreDoneAreRanges(t *testing.T) {
	answers := newAnswers(nil)
	for _, id := range []uint64{7, 5, 9, 6} {
		answers.settle(id, done)
	}
	answers.settle(10, judge(Skip{Reason: "old"}))
	answers.settle(3, done)
	answers.settle(11, doneWith([]*handlerv1.Record{{Topic: "out"}}))
	answers.grant(7)
	all, _ := answers.take()
	var found [][2]uint64
	for _, verdict := range all[0].Verdicts {
		found = append(found, [2]uint64{verdict.FirstId, verdict.Count})
	}
	if wanted := [][2]uint64{{10, 1}, {11, 1}, {3, 1}, {5, 3}, {9, 1}}; !slices.Equal(found, wanted) {
		t.Error(found)
	}
	if len(all) != 1 || all[0].Credits != 7 {
		t.Errorf("%v", all)
	}
	if again, _ := answers.take(); again != nil {
		t.Errorf("%v is sent again", again)
	}
}

func TestAVerdictInTheSameAnswerNeedsNoReportOfItsBeginning(t *testing.T) {
	answers := newAnswers(nil)
	answers.begin(callsOf(1, 2, 3, 5), false)
	answers.settle(2, done)
	all, _ := answers.take()
	if found := rangesOf(all[0].Begun); !slices.Equal(found, [][2]uint64{{1, 1}, {3, 1}, {5, 1}}) {
		t.Error(found)
	}
	answers.settle(1, judge(errors.New("busy")))
	if all, _ = answers.take(); len(all[0].Begun) != 0 {
		t.Errorf("%v begin twice", all[0].Begun)
	}
}

func TestAnswersAreCutAtAMebibyte(t *testing.T) {
	answers := newAnswers(&handlerv1.Welcome{})
	const count = 1000
	for id := range uint64(count) {
		answers.settle(id, judge(errors.New(strings.Repeat("a", maxReason))))
	}
	long := doneWith([]*handlerv1.Record{{Topic: "out", Value: make([]byte, 3<<20)}})
	answers.settle(count, long)
	answers.settle(count+1, done)
	answers.begin(callsOf(count+2), false)
	answers.grant(5)
	all, _ := answers.take()
	settled := 0
	for index, answer := range all {
		settled += len(answer.Verdicts)
		alone := len(answer.Verdicts) == 1 && answer.Verdicts[0].FirstId == count
		if size := proto.Size(answer); size > maxAnswer && !alone {
			t.Errorf("an answer of %d bytes", size)
		}
		if (answer.Welcome != nil) != (index == 0) || (len(answer.Begun) > 0) != (index == 0) {
			t.Error("welcome and begun come first")
		}
		if (answer.Credits > 0) != (index == len(all)-1) {
			t.Error("credits come last")
		}
	}
	if settled != count+2 || len(all) < 16 {
		t.Errorf("%d verdicts in %d answers", settled, len(all))
	}
}
