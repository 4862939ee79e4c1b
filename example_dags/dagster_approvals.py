"""A materialization in the middle of which people have to say yes.

`feature_table` makes a new table, which the policy lets data owners decide. Its step ends with a link to the
request, and no process waits. Once it is approved, the sensor makes `feature_table` and `summary`; `signals`,
which was made before, is left alone.

    HOOP_GATEWAY_URL=https://hoop.example.com HOOP_TOKEN_FILE=/var/run/secrets/hoop/token \
        dagster dev -f dagster_approvals.py
"""

import dagster as dg
from dagster_snowflake import SnowflakeResource

from hoop_dagster import HoopSnowflakeResource, hoop_approval_sensor

REBUILD = """
    CREATE OR REPLACE TABLE PROD.FEATURES.CHURN_BY_SEGMENT AS
    SELECT c.SEGMENT, COUNT(*) AS CUSTOMERS, AVG(s.SCORE) AS SCORE
    FROM PROD.FEATURES.CHURN_STAGING s
    JOIN PROD.CRM.CUSTOMERS c ON c.CUSTOMER_ID = s.CUSTOMER_ID
    GROUP BY c.SEGMENT
"""


def _rows(snowflake: SnowflakeResource, sql: str) -> int:
    with snowflake.get_connection() as connection, connection.cursor() as cursor:
        return int(cursor.execute(sql).fetchone()[0])


@dg.asset(kinds={"snowflake"}, description="How many scores there are.")
def signals(snowflake: SnowflakeResource) -> dg.MaterializeResult[None]:
    count = _rows(snowflake, "SELECT COUNT(*) FROM PROD.FEATURES.CHURN_STAGING")
    return dg.MaterializeResult(metadata={"dagster/row_count": count})


@dg.asset(deps=[signals], kinds={"snowflake"}, description="Scores by segment; needs an approval.")
def feature_table(snowflake: SnowflakeResource) -> None:
    with snowflake.get_connection() as connection, connection.cursor() as cursor:
        cursor.execute(REBUILD)


@dg.asset(deps=[feature_table], kinds={"snowflake"}, description="How many segments there are.")
def summary(snowflake: SnowflakeResource) -> dg.MaterializeResult[None]:
    count = _rows(snowflake, "SELECT COUNT(*) FROM PROD.FEATURES.CHURN_BY_SEGMENT")
    return dg.MaterializeResult(metadata={"dagster/row_count": count})


defs = dg.Definitions(
    assets=[signals, feature_table, summary],
    resources={
        "snowflake": HoopSnowflakeResource(
            database="PROD", schema="FEATURES", purpose="Churn by segment"
        )
    },
    sensors=[
        hoop_approval_sensor(
            minimum_interval_seconds=10, default_status=dg.DefaultSensorStatus.RUNNING
        )
    ],
)
