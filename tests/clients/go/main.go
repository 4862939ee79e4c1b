// gosnowflake, unmodified: told where Hoop is and given a token, and nothing else.
package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	sf "github.com/snowflakedb/gosnowflake"
)

type facts map[string]any

func say(step string, more facts) {
	more["step"] = step
	line, err := json.Marshal(more)
	must(err)
	fmt.Println(string(line))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		panic("the client failed")
	}
}

func fault(err error) facts {
	var told *sf.SnowflakeError
	if errors.As(err, &told) {
		return facts{"code": told.Number, "sqlstate": told.SQLState, "message": told.Message}
	}
	return facts{"code": 0, "sqlstate": "", "message": fmt.Sprint(err)}
}

func open(params map[string]*string) *sql.DB {
	port, err := strconv.Atoi(os.Getenv("HOOP_PORT"))
	must(err)
	return sql.OpenDB(sf.NewConnector(sf.SnowflakeDriver{}, sf.Config{
		Account: "hoopdev", User: "whoever", Authenticator: sf.AuthTypeOAuth,
		Token: os.Getenv("HOOP_TOKEN"), Host: os.Getenv("HOOP_HOST"), Port: port, Protocol: "http",
		Database: "PROD", Schema: "CRM", Params: params,
	}))
}

func plain(value any) any {
	switch v := value.(type) {
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case []byte:
		return hex.EncodeToString(v)
	}
	return value
}

func read(rows *sql.Rows, err error) ([][]any, [][]any) {
	must(err)
	defer rows.Close()
	types, err := rows.ColumnTypes()
	must(err)
	columns := [][]any{}
	for _, c := range types {
		precision, scale, _ := c.DecimalSize()
		nullable, _ := c.Nullable()
		columns = append(columns, []any{c.Name(), c.DatabaseTypeName(), precision, scale, nullable})
	}
	found := [][]any{}
	for rows.Next() {
		row, into := make([]any, len(types)), make([]any, len(types))
		for i := range row {
			into[i] = &row[i]
		}
		must(rows.Scan(into...))
		for i := range row {
			row[i] = plain(row[i])
		}
		found = append(found, row)
	}
	must(rows.Err())
	return columns, found
}

func large(ctx context.Context, db *sql.DB, form string) {
	rows, err := db.QueryContext(ctx, "SELECT CUSTOMER_ID, EMAIL FROM CUSTOMERS")
	must(err)
	count, sum, clear := 0, 0, 0
	for rows.Next() {
		var id int
		var email string
		must(rows.Scan(&id, &email))
		count, sum = count+1, sum+id
		if !strings.HasPrefix(email, "***@") {
			clear++
		}
	}
	must(rows.Err())
	say("large-"+form, facts{"rows": count, "sum": sum, "clear": clear})
}

func reads(ctx context.Context, db *sql.DB, form string) {
	columns, rows := read(db.QueryContext(ctx, os.Getenv("SQL_WIDE")))
	say("wide-"+form, facts{"columns": columns, "rows": rows})
	large(ctx, db, form)
}

func binds(ctx context.Context, db *sql.DB) {
	at := time.Date(2024, 2, 29, 12, 30, 15, 123456000, time.UTC)
	_, rows := read(db.QueryContext(ctx,
		"SELECT ? AS A, ? AS B, ? AS C, ? AS D, ? AS E, ? AS F, ?::TIMESTAMP_NTZ AS G, ? AS H",
		"Zoë 🚀", 7, 2.5, true, sql.NullString{}, sf.DataTypeDate, at, sf.DataTypeTimestampNtz, at, sf.DataTypeBinary, []byte{0, 255}))
	_, numbered := read(db.QueryContext(ctx, "SELECT :2 AS A, :1 AS B", "one", "two"))
	say("binds", facts{"rows": rows, "numbered": numbered})

	ids, scores, times := make([]int, 300), make([]float64, 300), make([]time.Time, 300)
	for i := range ids {
		ids[i], scores[i], times[i] = 930000+i, float64(i)/4, at
	}
	insert := "INSERT INTO PROD.FEATURES.CHURN_STAGING (CUSTOMER_ID, SCORE, COMPUTED_AT) VALUES (?, ?, ?)"
	done, err := db.ExecContext(ctx, insert,
		sf.Array(&ids), sf.Array(&scores), sf.Array(&times, sf.TimestampNTZType))
	must(err)
	inserted, err := done.RowsAffected()
	must(err)
	_, back := read(db.QueryContext(ctx, "SELECT COUNT(*), MAX(SCORE), MAX(COMPUTED_AT) "+
		"FROM PROD.FEATURES.CHURN_STAGING WHERE CUSTOMER_ID BETWEEN 930000 AND 930299"))
	gone, err := db.ExecContext(ctx,
		"DELETE FROM PROD.FEATURES.CHURN_STAGING WHERE CUSTOMER_ID BETWEEN ? AND ?", 930000, 930299)
	must(err)
	deleted, err := gone.RowsAffected()
	must(err)
	say("arrays", facts{"inserted": inserted, "back": back, "deleted": deleted})
}

func cancels(db *sql.DB) {
	ctx, stop := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer stop()
	_, err := db.QueryContext(ctx, os.Getenv("SQL_SLOW"))
	_, rows := read(db.QueryContext(context.Background(), "SELECT 1 AS A"))
	say("cancel", facts{"exceeded": errors.Is(err, context.DeadlineExceeded), "after": rows})
}

func asynchronous(ctx context.Context, db *sql.DB) {
	sent := make(chan string, 1)
	query := "SELECT CUSTOMER_ID, SSN FROM CUSTOMERS WHERE CUSTOMER_ID < 3 ORDER BY 1"
	waiting, err := db.QueryContext(sf.WithQueryIDChan(sf.WithAsyncMode(ctx), sent), query)
	_, rows := read(waiting, err)
	id := <-sent
	_, again := read(db.QueryContext(sf.WithFetchResultByID(ctx, id), ""))
	connection, err := db.Conn(ctx)
	must(err)
	defer connection.Close()
	var status string
	must(connection.Raw(func(raw any) error {
		told, err := raw.(sf.SnowflakeConnection).GetQueryStatus(ctx, id)
		if err == nil {
			status = told.ErrorCode
		}
		return err
	}))
	say("async", facts{"rows": rows, "again": again, "status": status})

	slow, err := db.QueryContext(sf.WithQueryIDChan(sf.WithAsyncMode(ctx), make(chan string, 1)),
		"SELECT COUNT(*) FROM ORDERS A, ORDERS B WHERE A.ORDER_ID < 800 AND A.AMOUNT < B.AMOUNT")
	_, counted := read(slow, err)
	say("detached", facts{"rows": len(counted)})
}

func prepared(ctx context.Context, db *sql.DB) {
	statement, err := db.PrepareContext(ctx, "SELECT CUSTOMER_ID FROM CUSTOMERS WHERE CUSTOMER_ID = ?")
	must(err)
	found := []any{}
	for id := 1; id < 4; id++ {
		_, rows := read(statement.QueryContext(ctx, id))
		found = append(found, rows[0][0])
	}
	columns, rows := read(db.QueryContext(sf.WithDescribeOnly(ctx), "SELECT SSN, CUSTOMER_ID FROM CUSTOMERS"))
	say("prepared", facts{"found": found, "described": columns, "rows": len(rows)})
}

func transaction(ctx context.Context, db *sql.DB) {
	count := "SELECT COUNT(*) FROM PROD.FEATURES.CHURN_STAGING WHERE CUSTOMER_ID = 939999"
	tx, err := db.BeginTx(ctx, nil)
	must(err)
	_, err = tx.ExecContext(ctx, "INSERT INTO PROD.FEATURES.CHURN_STAGING (CUSTOMER_ID) VALUES (939999)")
	must(err)
	_, inside := read(tx.QueryContext(ctx, count))
	must(tx.Rollback())
	_, outside := read(db.QueryContext(ctx, count))
	say("transaction", facts{"inside": inside, "outside": outside})
}

func main() {
	ctx := context.Background()
	alive := "true"
	db := open(map[string]*string{"client_session_keep_alive": &alive})
	db.SetMaxOpenConns(2)
	must(db.PingContext(ctx))
	reads(ctx, db, "arrow")
	binds(ctx, db)
	_, err := db.QueryContext(ctx, "SELECT * FROM PROD.HR.SALARIES")
	say("denied", fault(err))
	_, held := read(db.QueryContext(ctx, os.Getenv("SQL_HELD")))
	say("held", facts{"rows": held})
	cancels(db)
	asynchronous(ctx, db)
	prepared(ctx, db)
	transaction(ctx, db)
	_, tables := read(db.QueryContext(sf.WithQueryTag(ctx, "from go"), "SHOW TERSE TABLES IN SCHEMA PROD.CRM"))
	say("tables", facts{"rows": tables})
	must(db.Close())

	form := "JSON"
	other := open(map[string]*string{"GO_QUERY_RESULT_FORMAT": &form})
	reads(ctx, other, "json")
	must(other.Close())
	_, err = other.QueryContext(ctx, "SELECT 1")
	say("closed", facts{"closed": err != nil && !errors.Is(err, driver.ErrBadConn)})
}
