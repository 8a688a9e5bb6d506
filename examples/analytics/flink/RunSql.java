import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/** Runs the statements of a file in this process, as Flink's SQL client does on a cluster. */
public class RunSql {
    private static final Pattern SET = Pattern.compile("SET '([^']*)' = '([^']*)'");

    public static void main(String[] arguments) throws Exception {
        Map<String, String> environment = System.getenv();
        String brokers = environment.getOrDefault("ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS", "localhost:9092");
        String prefix = environment.getOrDefault("ASM_BRIDGE_TOPICS__PREFIX", "asm.");
        String text = Files.readString(Path.of(arguments[0]))
                .replaceAll("(?m)^--.*$", "")
                .replace("localhost:9092", brokers)
                .replace("'asm.", "'" + prefix);
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
}
