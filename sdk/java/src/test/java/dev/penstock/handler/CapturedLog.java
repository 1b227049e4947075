package dev.penstock.handler;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.List;
import java.util.ResourceBundle;
import java.util.concurrent.CopyOnWriteArrayList;

/** A log that tests can read: each entry is the text and the stack. */
final class CapturedLog implements System.Logger {
    final List<String> entries = new CopyOnWriteArrayList<>();

    @Override
    public String getName() {
        return "captured";
    }

    @Override
    public boolean isLoggable(Level level) {
        return true;
    }

    @Override
    public void log(Level level, ResourceBundle bundle, String text, Throwable thrown) {
        StringWriter entry = new StringWriter();
        entry.write(level + " " + text + "\n");
        if (thrown != null) {
            thrown.printStackTrace(new PrintWriter(entry, true));
        }
        entries.add(entry.toString());
    }

    @Override
    public void log(Level level, ResourceBundle bundle, String format, Object... parameters) {
        log(level, bundle, format, (Throwable) null);
    }

    String text() {
        return String.join("", entries);
    }
}
