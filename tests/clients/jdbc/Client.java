// The JDBC driver, unmodified: told where Hoop is and given a token, and nothing else.

import java.math.BigDecimal;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Time;
import java.sql.Timestamp;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Properties;
import net.snowflake.client.api.connection.SnowflakeConnection;
import net.snowflake.client.api.resultset.SnowflakeAsyncResultSet;
import net.snowflake.client.api.resultset.SnowflakeResultSet;
import net.snowflake.client.api.statement.SnowflakeStatement;

public class Client {
  static Connection connect(String... more) throws SQLException {
    Properties options = new Properties();
    options.put("account", "hoopdev");
    options.put("user", "whoever");
    options.put("authenticator", "oauth");
    options.put("token", System.getenv("HOOP_TOKEN"));
    options.put("db", "PROD");
    options.put("schema", "CRM");
    options.put("ssl", "off");
    options.put("disablePlatformDetection", "true");
    options.put("tracing", "OFF");
    for (int i = 0; i < more.length; i += 2) {
      options.put(more[i], more[i + 1]);
    }
    String address = System.getenv("HOOP_HOST") + ":" + System.getenv("HOOP_PORT");
    return DriverManager.getConnection("jdbc:snowflake://" + address + "/", options);
  }

  // ------------------------------------------------------------------ what the tests read

  static String json(Object value) {
    if (value == null || value instanceof Boolean || value instanceof Integer || value instanceof Long) {
      return String.valueOf(value);
    }
    if (value instanceof List<?> list) {
      return "[" + String.join(",", list.stream().map(Client::json).toList()) + "]";
    }
    String text = value instanceof byte[] raw ? HexFormat.of().formatHex(raw) : value.toString();
    StringBuilder quoted = new StringBuilder("\"");
    for (char c : text.toCharArray()) {
      if (c == '"' || c == '\\') {
        quoted.append('\\').append(c);
      } else if (c < 32) {
        quoted.append(String.format("\\u%04x", (int) c));
      } else {
        quoted.append(c);
      }
    }
    return quoted.append('"').toString();
  }

  static void say(String step, Object... facts) {
    StringBuilder line = new StringBuilder("{\"step\":" + json(step));
    for (int i = 0; i < facts.length; i += 2) {
      line.append(",").append(json(facts[i])).append(":").append(json(facts[i + 1]));
    }
    System.out.println(line.append("}"));
  }

  static List<Object> rows(ResultSet found) throws SQLException {
    List<Object> rows = new ArrayList<>();
    int width = found.getMetaData().getColumnCount();
    while (found.next()) {
      List<Object> row = new ArrayList<>();
      for (int i = 1; i <= width; i++) {
        row.add(found.getObject(i));
      }
      rows.add(row);
    }
    return rows;
  }

  static List<Object> columns(ResultSetMetaData told) throws SQLException {
    List<Object> columns = new ArrayList<>();
    for (int i = 1; i <= told.getColumnCount(); i++) {
      columns.add(
          Arrays.asList(
              told.getColumnName(i),
              told.getColumnTypeName(i),
              told.getPrecision(i),
              told.getScale(i),
              told.isNullable(i),
              told.getColumnClassName(i)));
    }
    return columns;
  }

  interface Work {
    void run() throws Exception;
  }

  static void failing(String step, Work work) throws Exception {
    try {
      work.run();
      say(step, "code", 0, "sqlstate", "", "message", "it went through");
    } catch (SQLException e) {
      say(step, "code", e.getErrorCode(), "sqlstate", e.getSQLState(), "message", e.getMessage());
    }
  }

  static ResultSet query(Connection c, String sql) throws SQLException {
    return c.createStatement().executeQuery(sql);
  }

  // ------------------------------------------------------------------ the steps

  static void reads(Connection c, String form) throws Exception {
    ResultSet wide = query(c, System.getenv("SQL_WIDE"));
    say("wide-" + form, "columns", columns(wide.getMetaData()), "rows", rows(wide));
    ResultSet large = query(c, "SELECT CUSTOMER_ID, EMAIL FROM CUSTOMERS");
    int rows = 0;
    long sum = 0;
    int clear = 0;
    while (large.next()) {
      rows++;
      sum += large.getLong(1);
      clear += large.getString(2).startsWith("***@") ? 0 : 1;
    }
    say("large-" + form, "rows", rows, "sum", sum, "clear", clear);
  }

  static void typed(Connection c) throws Exception {
    ResultSet wide = query(c, System.getenv("SQL_WIDE"));
    wide.next();
    say(
        "typed",
        "price", wide.getBigDecimal("PRICE").toPlainString(),
        "huge", wide.getBigDecimal("HUGE").toPlainString(),
        "born", wide.getDate("BORN").toString(),
        "made", wide.getTimestamp("MADE").toInstant().toString(),
        "sent", wide.getTimestamp("SENT").toInstant().toString(),
        "secret", Arrays.asList(wide.getBigDecimal("SECRET_PRICE"), wide.getDate("SECRET_BORN"),
            wide.getTimestamp("SECRET_SENT"), wide.getBytes("SECRET_RAW"), wide.getLong("SECRET_BIG"),
            wide.wasNull()));
  }

  static void binds(Connection c) throws Exception {
    String sql = "SELECT ?, ?, ?, ?, ?, ?::DATE, ?::TIME, ?::TIMESTAMP_NTZ, ?";
    PreparedStatement one = c.prepareStatement(sql);
    one.setString(1, "Zoë 🚀");
    one.setLong(2, 7);
    one.setBigDecimal(3, new BigDecimal("1234567890123456.78"));
    one.setDouble(4, 2.5);
    one.setBoolean(5, true);
    one.setDate(6, Date.valueOf("2024-02-29"));
    one.setTime(7, Time.valueOf("10:20:30"));
    one.setTimestamp(8, Timestamp.valueOf("2024-02-29 12:30:15.123"));
    one.setNull(9, java.sql.Types.VARCHAR);
    say("binds", "rows", rows(one.executeQuery()));

    String insert =
        "INSERT INTO PROD.FEATURES.CHURN_STAGING (CUSTOMER_ID, SCORE, COMPUTED_AT) VALUES (?, ?, ?)";
    PreparedStatement many = c.prepareStatement(insert);
    for (int i = 0; i < 300; i++) {
      many.setInt(1, 920000 + i);
      if (i % 2 == 0) {
        many.setDouble(2, i / 4.0);
      } else {
        many.setNull(2, java.sql.Types.DOUBLE);
      }
      many.setTimestamp(3, Timestamp.valueOf("2024-02-29 10:00:00"));
      many.addBatch();
    }
    int sum = Arrays.stream(many.executeBatch()).sum();
    String back =
        "SELECT COUNT(*), COUNT(SCORE), MAX(CUSTOMER_ID) FROM PROD.FEATURES.CHURN_STAGING "
            + "WHERE CUSTOMER_ID >= 920000 AND CUSTOMER_ID < 920300";
    List<Object> found = rows(query(c, back));
    PreparedStatement gone =
        c.prepareStatement("DELETE FROM PROD.FEATURES.CHURN_STAGING WHERE CUSTOMER_ID BETWEEN ? AND ?");
    gone.setInt(1, 920000);
    gone.setInt(2, 920299);
    say("arrays", "inserted", sum, "back", found, "deleted", gone.executeUpdate());
  }

  static void prepared(Connection c) throws Exception {
    PreparedStatement s =
        c.prepareStatement("SELECT SSN, CUSTOMER_ID FROM CUSTOMERS WHERE CUSTOMER_ID = ? OR CUSTOMER_ID = ?");
    say(
        "described",
        "columns", columns(s.getMetaData()),
        "parameters", s.getParameterMetaData().getParameterCount());
  }

  static void metadata(Connection c) throws Exception {
    DatabaseMetaData m = c.getMetaData();
    List<Object> tables = new ArrayList<>();
    ResultSet found = m.getTables("PROD", "CRM", "%", new String[] {"TABLE"});
    while (found.next()) {
      tables.add(found.getString("TABLE_NAME"));
    }
    List<Object> columns = new ArrayList<>();
    ResultSet listed = m.getColumns("PROD", "CRM", "CUSTOMERS", "%");
    while (listed.next()) {
      columns.add(
          Arrays.asList(
              listed.getString("COLUMN_NAME"), listed.getString("TYPE_NAME"), listed.getInt("DATA_TYPE"),
              listed.getInt("COLUMN_SIZE"), listed.getInt("DECIMAL_DIGITS"), listed.getInt("ORDINAL_POSITION")));
    }
    String escape = m.getSearchStringEscape();
    List<Object> escaped = new ArrayList<>();
    ResultSet underscored = m.getColumns("PROD", "FEATURES", "CHURN" + escape + "_STAGING", "%");
    while (underscored.next()) {
      escaped.add(underscored.getString("COLUMN_NAME"));
    }
    List<Object> schemas = new ArrayList<>();
    ResultSet all = m.getSchemas("PROD", "%");
    while (all.next()) {
      schemas.add(all.getString("TABLE_SCHEM"));
    }
    say(
        "metadata",
        "tables", tables, "columns", columns, "escaped", escaped, "schemas", schemas,
        "keys", rows(m.getPrimaryKeys("PROD", "CRM", "CUSTOMERS")),
        "imported", rows(m.getImportedKeys("PROD", "CRM", "CUSTOMERS")),
        "exported", rows(m.getExportedKeys("PROD", "CRM", "CUSTOMERS")),
        "procedures", rows(m.getProcedures("PROD", "CRM", "%")),
        "catalog", c.getCatalog(), "schema", c.getSchema(),
        "version", m.getDatabaseMajorVersion());
    failing("denied-columns", () -> {
      ResultSet none = m.getColumns("PROD", "HR", "SALARIES", "%");
      if (!none.next()) {
        throw new SQLException("no columns", "02000", 1);
      }
    });
  }

  static void cancels(Connection c) throws Exception {
    Statement slow = c.createStatement();
    Thread canceller = new Thread(() -> {
      try {
        Thread.sleep(700);
        slow.cancel();
      } catch (Exception e) {
        System.err.println(e);
      }
    });
    canceller.start();
    failing("cancel", () -> slow.executeQuery(System.getenv("SQL_SLOW")));
    canceller.join();
    Statement limited = c.createStatement();
    limited.setQueryTimeout(1);
    failing("timeout", () -> limited.executeQuery(System.getenv("SQL_SLOW")));
    say("after", "rows", rows(query(c, "SELECT 1 AS A")));
  }

  static void asynchronous(Connection c) throws Exception {
    SnowflakeStatement s = c.createStatement().unwrap(SnowflakeStatement.class);
    ResultSet later =
        s.executeAsyncQuery("SELECT CUSTOMER_ID, SSN FROM CUSTOMERS WHERE CUSTOMER_ID < 3 ORDER BY 1");
    String id = later.unwrap(SnowflakeResultSet.class).getQueryID();
    List<Object> found = rows(later);
    ResultSet again = c.unwrap(SnowflakeConnection.class).createResultSet(id);
    List<Object> repeated = rows(again);
    String status = again.unwrap(SnowflakeAsyncResultSet.class).getStatus().getStatus().toString();
    say("async", "rows", found, "again", repeated, "status", status);
  }

  static void transaction(Connection c) throws Exception {
    String count = "SELECT COUNT(*) FROM PROD.FEATURES.CHURN_STAGING WHERE CUSTOMER_ID = 929999";
    c.setAutoCommit(false);
    c.createStatement().executeUpdate(
        "INSERT INTO PROD.FEATURES.CHURN_STAGING (CUSTOMER_ID) VALUES (929999)");
    List<Object> inside = rows(query(c, count));
    c.rollback();
    c.setAutoCommit(true);
    say("transaction", "inside", inside, "outside", rows(query(c, count)));
  }

  public static void main(String[] args) throws Exception {
    Connection c = connect("CLIENT_SESSION_KEEP_ALIVE", "true", "queryTag", "from java");
    reads(c, "arrow");
    typed(c);
    binds(c);
    prepared(c);
    metadata(c);
    failing("denied", () -> query(c, "SELECT * FROM PROD.HR.SALARIES"));
    say("held", "rows", rows(query(c, System.getenv("SQL_HELD"))));
    cancels(c);
    asynchronous(c);
    transaction(c);
    c.createStatement().execute("ALTER SESSION SET JDBC_QUERY_RESULT_FORMAT = 'JSON'");
    reads(c, "json");
    say("alive", "valid", c.isValid(5));
    c.close();
    say("closed", "closed", c.isClosed());
  }
}
