package dev.penstock.handler;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import javax.tools.DiagnosticCollector;
import javax.tools.JavaCompiler;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.ToolProvider;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The examples in the documentation compile. */
class ExamplesTest {
    private static final Pattern FENCED = Pattern.compile("(?s)```java\n(.*?)```");
    private static final Pattern CODE = Pattern.compile("(?s)<pre>\\{@code\n(.*?)\n \\* \\}</pre>");
    private static final Pattern CLASS = Pattern.compile("(?m)^(?:public )?(?:final )?class (\\w+)");
    private static final String IMPORTS = """
            import static org.junit.jupiter.api.Assertions.*;
            import dev.penstock.handler.*;
            import dev.penstock.handler.opentelemetry.*;
            import dev.penstock.handler.testing.*;
            import io.opentelemetry.api.*;
            import java.net.http.*;
            import java.net.http.HttpResponse.BodyHandlers;
            import java.util.*;
            import org.junit.jupiter.api.*;
            import org.junit.jupiter.api.extension.*;
            """;

    @TempDir
    Path directory;

    /** An example as a class that compiles. */
    private static final class Source extends SimpleJavaFileObject {
        private final String text;

        Source(String name, String text) {
            super(URI.create("string:///" + name + ".java"), Kind.SOURCE);
            this.text = text;
        }

        @Override
        public CharSequence getCharContent(boolean ignoreEncodingErrors) {
            return text;
        }

        static Source of(String code, int number) {
            Matcher named = CLASS.matcher(code);
            if (named.find()) {
                return new Source(named.group(1), code);
            }
            String name = "Example" + number;
            boolean isMember = code.startsWith("@") || code.startsWith("public static");
            String body = isMember ? code : """
                    Message message;
                    HttpClient client;
                    Handler handler;
                    void example() throws Exception {
                    %s
                    }
                    HttpRequest request(Message message) { return null; }
                    void insert(List<Message> messages) {}
                    """.formatted(code);
            return new Source(name, IMPORTS + "class " + name + " {\n" + body + "\n}\n");
        }
    }

    @Test
    void theExamplesCompile() throws Exception {
        List<String> codes = new ArrayList<>(all(FENCED, Path.of("README.md")));
        int inReadme = codes.size();
        try (Stream<Path> files = Files.walk(Path.of("src/main/java"))) {
            for (Path file : files.filter(path -> path.toString().endsWith(".java")).sorted().toList()) {
                all(CODE, file).forEach(code -> codes.add(code.replaceAll("(?m)^ \\* ?", "")));
            }
        }
        assertEquals(5, inReadme);
        assertEquals(8, codes.size());
        // As in docs/handlers.md, where the clone has it.
        Path docs = Path.of("../../docs/handlers.md");
        List<Source> sources = new ArrayList<>();
        for (String code : codes) {
            sources.add(Source.of(code, sources.size()));
        }
        compile(sources);
        if (Files.exists(docs)) {
            List<String> some = all(FENCED, docs);
            assertEquals(1, some.size());
            compile(List.of(Source.of(some.get(0), 0)));
        }
    }

    private static List<String> all(Pattern pattern, Path file) throws Exception {
        List<String> found = new ArrayList<>();
        Matcher matcher = pattern.matcher(Files.readString(file));
        while (matcher.find()) {
            found.add(matcher.group(1));
        }
        return found;
    }

    private void compile(List<Source> sources) {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        DiagnosticCollector<JavaFileObject> problems = new DiagnosticCollector<>();
        List<String> options = List.of("-d", directory.toString(), "-proc:none", "-classpath", System.getProperty("java.class.path"));
        boolean isCompiled = compiler.getTask(null, null, problems, options, null, sources).call();
        assertTrue(isCompiled, () -> problems.getDiagnostics().toString());
    }
}
