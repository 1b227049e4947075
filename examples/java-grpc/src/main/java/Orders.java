import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.penstock.handler.HandlerServer;
import dev.penstock.handler.Message;
import dev.penstock.handler.Verdict;
import java.util.concurrent.atomic.AtomicLong;

/** A Penstock handler over gRPC: what it returns or throws is the verdict. */
public final class Orders {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final AtomicLong HANDLED = new AtomicLong();

    private Orders() {}

    public static void main(String[] arguments) throws Exception {
        HandlerServer.of(Orders::handle).serve();
    }

    static Verdict handle(Message message) {
        JsonNode order;
        try {
            order = JSON.readTree(message.text());
        } catch (JsonProcessingException error) {
            return Verdict.fail(error.getOriginalMessage()); // another attempt would not help
        }
        if (order.path("amount").asDouble() < 0) {
            return Verdict.deadLetter("order " + order.path("id") + " has a negative amount");
        }
        if (HANDLED.incrementAndGet() % 10_000 == 0) {
            System.out.println(HANDLED + " orders, the last " + message.idempotencyKey() + ": " + order);
        }
        return Verdict.done();
    }
}
