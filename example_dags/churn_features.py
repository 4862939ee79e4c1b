"""Churn features, written by an AI agent that never sees a customer's e-mail or SSN.

Everything here is ordinary Airflow. What is different from a DAG with a Snowflake connection:

- the connection `hoop_default` (type "Snowflake through Hoop") holds Hoop's address and the name of the
  file with this job's identity token. There is no Snowflake password or key to steal;
- Hoop decides about each statement. Columns that the agent may not see come back masked, a statement
  that policy wants approved waits for people, and a Snowflake user exists only while it runs.
"""

from __future__ import annotations

import datetime

from airflow.sdk import DAG

from hoop_airflow.operators.hoop_snowflake import HoopSnowflakeOperator
from hoop_airflow.sensors.hoop_approval import HoopApprovalSensor

with DAG(
    dag_id="churn_features",
    description="Look at churn signals, build the feature table, clear the old scores",
    schedule=None,
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    tags=["hoop", "churn"],
    default_args={"conn_id": "hoop_default", "database": "PROD", "schema": "FEATURES"},
):
    # Allowed at once. EMAIL, SSN and CARD_NUMBER come back masked: the agent may count on them, join and
    # group by what is left, but it does not learn them.
    look_at_customers = HoopSnowflakeOperator(
        task_id="look_at_customers",
        purpose="Find signals that a customer is about to leave",
        sql="""
            SELECT c.CUSTOMER_ID,
                   c.EMAIL,
                   c.SSN,
                   c.CARD_NUMBER,
                   c.REGION,
                   c.SEGMENT,
                   c.MRR,
                   COUNT(o.ORDER_ID)              AS ORDERS,
                   COALESCE(SUM(o.AMOUNT), 0)     AS REVENUE,
                   MAX(o.ORDERED_AT)              AS LAST_ORDER_AT
            FROM PROD.CRM.CUSTOMERS c
            LEFT JOIN PROD.CRM.ORDERS o ON o.CUSTOMER_ID = c.CUSTOMER_ID
            GROUP BY c.CUSTOMER_ID, c.EMAIL, c.SSN, c.CARD_NUMBER, c.REGION, c.SEGMENT, c.MRR
            ORDER BY c.CUSTOMER_ID
            LIMIT 20
        """,
    )

    # Replaces a whole table, so policy wants one data owner to agree.
    build_features = HoopSnowflakeOperator(
        task_id="build_features",
        purpose="Rebuild the churn features for tonight's training run",
        sql="""
            CREATE OR REPLACE TABLE PROD.FEATURES.CHURN_FEATURES AS
            SELECT c.CUSTOMER_ID,
                   c.REGION,
                   c.SEGMENT,
                   c.EMAIL                        AS EMAIL_DOMAIN,
                   c.MRR,
                   COUNT(o.ORDER_ID)              AS ORDERS,
                   COALESCE(SUM(o.AMOUNT), 0)     AS REVENUE,
                   MAX(o.ORDERED_AT)              AS LAST_ORDER_AT
            FROM PROD.CRM.CUSTOMERS c
            LEFT JOIN PROD.CRM.ORDERS o ON o.CUSTOMER_ID = c.CUSTOMER_ID
            GROUP BY c.CUSTOMER_ID, c.REGION, c.SEGMENT, c.EMAIL, c.MRR
        """,
    )

    # Asks ahead, and gives its worker slot back while people think.
    ask_for_build = HoopApprovalSensor(
        task_id="ask_for_build",
        for_task=build_features,
        poke_interval=datetime.timedelta(seconds=2),
        timeout=datetime.timedelta(hours=24),
    )

    # A keyed change of the feature table: policy allows it without asking.
    refresh_big_spenders = HoopSnowflakeOperator(
        task_id="refresh_big_spenders",
        purpose="Bring the revenue of this month's buyers up to date",
        sql="""
            MERGE INTO PROD.FEATURES.CHURN_FEATURES f
            USING (
                SELECT CUSTOMER_ID, COUNT(ORDER_ID) AS ORDERS, SUM(AMOUNT) AS REVENUE
                FROM PROD.CRM.ORDERS
                GROUP BY CUSTOMER_ID
            ) o ON f.CUSTOMER_ID = o.CUSTOMER_ID
            WHEN MATCHED AND f.REVENUE <> o.REVENUE THEN
                UPDATE SET ORDERS = o.ORDERS, REVENUE = o.REVENUE
        """,
    )

    # No WHERE: two data owners must agree. The task waits in Required Actions, without a worker slot; where Hoop
    # knows no Airflow, as in `hoop demo`, the statement is held by Hoop.
    clear_staging = HoopSnowflakeOperator(
        task_id="clear_staging",
        purpose="The scores of the old model are wrong",
        sql="DELETE FROM PROD.FEATURES.CHURN_STAGING",
    )

    look_at_customers >> ask_for_build >> build_features >> refresh_big_spenders >> clear_staging
