import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.admin.Admin;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.KafkaException;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/** Runs the statements of a file in this process, as Flink's SQL client does on a cluster. */
public class RunSql {
    private static final Pattern TOPIC = Pattern.compile("'topic' = '([^']*)'");
    private static final Pattern SET = Pattern.compile("SET '([^']*)' = '([^']*)'");

    public static void main(String[] arguments) throws Exception {
        Map<String, String> environment = System.getenv();
        String brokers = environment.getOrDefault("ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS", "localhost:9092");
        String prefix = environment.getOrDefault("ASM_BRIDGE_TOPICS__PREFIX", "asm.");
        String text = Files.readString(Path.of(arguments[0]))
                .replaceAll("(?m)^--.*$", "")
                .replace("localhost:9092", brokers)
                .replace("'asm.", "'" + prefix);
        check(brokers, text);
        TableEnvironment tables = TableEnvironment.create(EnvironmentSettings.inBatchMode());
        tables.getConfig().set("parallelism.default", "1");
        for (String statement : text.split(";")) {
            Matcher set = SET.matcher(statement.strip());
            if (set.matches()) {
                if (!set.group(1).startsWith("sql-client.")) tables.getConfig().set(set.group(1), set.group(2));
            } else if (!statement.isBlank()) {
                var result = tables.executeSql(statement.strip());
                if (statement.strip().startsWith("SELECT")) result.print();
            }
        }
    }

    /** Ends with what is wrong if there is nothing to read: Flink would say it in a hundred lines, after a minute. */
    private static void check(String brokers, String text) throws InterruptedException {
        Map<String, Object> settings =
                Map.of("bootstrap.servers", brokers, "default.api.timeout.ms", 10_000, "request.timeout.ms", 10_000);
        try (Admin admin = Admin.create(settings)) {
            var there = admin.listTopics().names().get();
            TOPIC.matcher(text).results().map(found -> found.group(1)).filter(name -> !there.contains(name)).findFirst()
                    .ifPresent(name -> fail("there is no topic " + name + " at " + brokers
                            + ": does a bridge run, with this prefix (topics.prefix)?"));
        } catch (ExecutionException | KafkaException error) {
            Throwable cause = error.getCause() == null ? error : error.getCause();
            fail("Kafka at " + brokers + " does not answer: " + cause.getMessage());
        }
    }

    private static void fail(String why) {
        System.err.println(why);
        System.exit(1);
    }
}
