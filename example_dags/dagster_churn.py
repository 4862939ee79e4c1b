"""The churn features as a Dagster asset.

The asset asks for a SnowflakeResource, as it did before: only the definition of the resource at the
bottom of this file knows that Snowflake is reached through Hoop.

    HOOP_GATEWAY_URL=https://hoop.example.com HOOP_TOKEN_FILE=/var/run/secrets/hoop/token \
        dagster asset materialize -f dagster_churn.py --select churn_signals
"""

import dagster as dg
from dagster_snowflake import SnowflakeResource

from hoop_dagster import HoopSnowflakeResource

QUERY = """
    SELECT c.CUSTOMER_ID,
           c.EMAIL,
           c.SSN,
           c.REGION,
           c.SEGMENT,
           c.MRR,
           COUNT(o.ORDER_ID)          AS ORDERS,
           COALESCE(SUM(o.AMOUNT), 0) AS REVENUE
    FROM PROD.CRM.CUSTOMERS c
    LEFT JOIN PROD.CRM.ORDERS o ON o.CUSTOMER_ID = c.CUSTOMER_ID
    GROUP BY c.CUSTOMER_ID, c.EMAIL, c.SSN, c.REGION, c.SEGMENT, c.MRR
    ORDER BY c.CUSTOMER_ID
    LIMIT 100
"""


@dg.asset(kinds={"snowflake"}, description="What the agent may know about customers and churn.")
def churn_signals(
    context: dg.AssetExecutionContext, snowflake: SnowflakeResource
) -> dg.MaterializeResult[list[dict[str, object]]]:
    with snowflake.get_connection() as connection, connection.cursor() as cursor:
        cursor.execute(QUERY)
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    context.log.info("Read %d customers; e-mail and SSN came back masked", len(rows))
    return dg.MaterializeResult(value=rows, metadata={"dagster/row_count": len(rows)})


defs = dg.Definitions(
    assets=[churn_signals],
    resources={
        # Address and token come from HOOP_GATEWAY_URL and HOOP_TOKEN_FILE; there is nothing secret here.
        "snowflake": HoopSnowflakeResource(
            database="PROD", schema="FEATURES", purpose="Find signals of churn"
        )
    },
)
