// The JDBC driver, unmodified: PUT, COPY INTO, and many bound rows, which it sends through a stage.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;

public class Uploads {
  public static void main(String[] arguments) throws Exception {
    Properties options = new Properties();
    options.put("account", "hoopdev");
    options.put("user", "whoever");
    options.put("authenticator", "oauth");
    options.put("token", System.getenv("HOOP_TOKEN"));
    options.put("db", "PROD");
    options.put("schema", "FEATURES");
    options.put("ssl", "off");
    options.put("disablePlatformDetection", "true");
    options.put("tracing", "OFF");
    String address = System.getenv("HOOP_HOST") + ":" + System.getenv("HOOP_PORT");
    String table = System.getenv("HOOP_TABLE");
    List<String> put = new ArrayList<>();
    try (Connection c = DriverManager.getConnection("jdbc:snowflake://" + address + "/", options);
        Statement s = c.createStatement()) {
      s.execute("CREATE TABLE " + table + " (ID NUMBER, LABEL VARCHAR)");
      s.execute("CREATE TEMP STAGE by_hand FILE_FORMAT = (TYPE = CSV)");
      try (ResultSet r = s.executeQuery("PUT 'file://" + System.getenv("HOOP_FOLDER") + "/*.csv' @by_hand")) {
        while (r.next()) {
          put.add("[\"" + r.getString(2) + "\", \"" + r.getString(7) + "\"]");
        }
      }
      s.execute("COPY INTO " + table + " FROM @by_hand");
      try (PreparedStatement p = c.prepareStatement("INSERT INTO " + table + " VALUES (?, ?)")) {
        for (int i = 0; i < 40000; i++) {
          p.setInt(1, i);
          p.setString(2, "label " + i);
          p.addBatch();
        }
        p.executeBatch();
      }
    }
    System.out.println("[" + String.join(", ", put) + "]");
  }
}
