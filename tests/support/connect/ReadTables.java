import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.data.IcebergGenerics;
import org.apache.iceberg.data.Record;
import org.apache.iceberg.hadoop.HadoopCatalog;

/**
 * WAREHOUSE SECONDS TABLE=ROWS...: waits until each Iceberg table has this many rows, or for so long; then prints each
 * table's columns and rows, a line of JSON for each table.
 */
public class ReadTables {
    public static void main(String[] arguments) throws Exception {
        var catalog = new HadoopCatalog(new Configuration(), arguments[0]);
        long end = System.currentTimeMillis() + Long.parseLong(arguments[1]) * 1000;
        for (int i = 2; i < arguments.length; i++) {
            var wanted = arguments[i].split("=");
            var name = TableIdentifier.parse(wanted[0]);
            var read = read(catalog, name);
            while (((List<?>) read.get("rows")).size() < Integer.parseInt(wanted[1]) && System.currentTimeMillis() < end) {
                Thread.sleep(500);
                read = read(catalog, name);
            }
            System.out.println(new ObjectMapper().writeValueAsString(read));
        }
    }

    private static Map<String, Object> read(HadoopCatalog catalog, TableIdentifier name) throws Exception {
        var columns = new LinkedHashMap<String, String>();
        var rows = new ArrayList<Object>();
        if (catalog.tableExists(name)) {
            var table = catalog.loadTable(name);
            table.schema().columns().forEach(column -> columns.put(column.name(), column.type().toString()));
            try (var records = IcebergGenerics.read(table).build()) {
                for (Record record : records) rows.add(plain(record));
            }
        }
        return Map.of("table", name.toString(), "columns", columns, "rows", rows);
    }

    private static Object plain(Object value) {
        if (value instanceof Record record) {
            var fields = new LinkedHashMap<String, Object>();
            record.struct().fields().forEach(field -> fields.put(field.name(), plain(record.getField(field.name()))));
            return fields;
        }
        return value instanceof List<?> list ? list.stream().map(ReadTables::plain).toList() : value;
    }
}
