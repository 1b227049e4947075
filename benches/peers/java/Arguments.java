import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerConfig;

/** What a peer is told: `--name=value` or `--name value`, by the names of the bench. */
final class Arguments {
    private final Map<String, String> values = new HashMap<>();

    Arguments(String[] arguments) {
        for (int i = 0; i < arguments.length; i++) {
            String[] parts = arguments[i].split("=", 2);
            values.put(parts[0], parts.length == 2 ? parts[1] : arguments[++i]);
        }
    }

    String text(String name) {
        String value = values.get("--" + name);
        if (value == null) {
            throw new IllegalArgumentException("--" + name + " is not given");
        }
        return value;
    }

    int number(String name) {
        return Integer.parseInt(text(name));
    }

    /** A consumer's properties, but for its deserializers and commits: a group of its own, from the beginning. */
    Properties consumer() {
        Properties properties = new Properties();
        properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, text("bootstrap"));
        properties.put(ConsumerConfig.GROUP_ID_CONFIG, "bench." + UUID.randomUUID());
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        // librdkafka leaves it out as well, unless told otherwise.
        properties.put(ConsumerConfig.CHECK_CRCS_CONFIG, false);
        // A fetch for partitions that are read to their end keeps those for others waiting.
        properties.put(ConsumerConfig.FETCH_MAX_WAIT_MS_CONFIG, 10);
        return properties;
    }
}
