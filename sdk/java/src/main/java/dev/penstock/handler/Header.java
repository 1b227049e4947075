package dev.penstock.handler;

import java.nio.charset.StandardCharsets;
import java.util.Objects;

/**
 * A header of a message or a record.
 *
 * @param name the name, which may occur more than once
 * @param value null where there is none; an empty one is not null
 */
public record Header(String name, byte[] value) {
    /** Checks the name. */
    public Header {
        Objects.requireNonNull(name, "the name of a header is null");
    }

    /** Returns a header whose value is text in UTF-8. */
    public static Header of(String name, String value) {
        return new Header(name, value.getBytes(StandardCharsets.UTF_8));
    }

    /** Returns the value as text in UTF-8; null where there is none. */
    public String text() {
        return value == null ? null : new String(value, StandardCharsets.UTF_8);
    }
}
