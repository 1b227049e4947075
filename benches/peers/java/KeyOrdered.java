import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Confluent's Parallel Consumer in the order of keys, one by one or in batches. */
public final class KeyOrdered {
    public static void main(String[] given) throws Exception {
        Arguments arguments = new Arguments(given);
        // The same once before, uncounted, for the compiler.
        consume(arguments);
        System.out.println(consume(arguments).json());
        System.exit(0);
    }

    private static Meter consume(Arguments arguments) throws InterruptedException {
        Properties properties = arguments.consumer();
        properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        KafkaConsumer<String, byte[]> consumer =
                new KafkaConsumer<>(properties, new StringDeserializer(), new ByteArrayDeserializer());
        ParallelStreamProcessor<String, byte[]> processor =
                ParallelStreamProcessor.createEosStreamProcessor(
                        ParallelConsumerOptions.<String, byte[]>builder()
                                .consumer(consumer)
                                .ordering(ProcessingOrder.KEY)
                                .maxConcurrency(arguments.number("handlers"))
                                .batchSize(arguments.number("batch"))
                                .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
                                .build());
        Meter meter = new Meter(arguments.number("count"));
        processor.subscribe(List.of(arguments.text("topic")));
        processor.poll(context -> meter.count((int) context.size()));
        meter.await();
        processor.closeDontDrainFirst();
        return meter;
    }
}
