import java.time.Duration;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** The plain KafkaConsumer: polls, looks at each value, commits in the background. */
public final class PlainConsumer {
    /** What was looked at, so that the compiler cannot leave it out. */
    private static volatile int looked;

    public static void main(String[] given) throws Exception {
        Arguments arguments = new Arguments(given);
        // The same once before, uncounted, for the compiler.
        consume(arguments);
        System.out.println(consume(arguments).json());
        System.exit(0);
    }

    private static Meter consume(Arguments arguments) {
        Properties properties = arguments.consumer();
        properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, true);
        properties.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 5000);
        Meter meter = new Meter(arguments.number("count"));
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(properties, bytes, bytes)) {
            consumer.subscribe(List.of(arguments.text("topic")));
            while (!meter.isDone()) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    looked = record.value().length;
                    meter.count(1);
                }
            }
        }
        return meter;
    }
}
