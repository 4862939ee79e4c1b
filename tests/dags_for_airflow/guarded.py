"""DAGs that the tests of the Airflow bridge run in a real Airflow."""

from __future__ import annotations

import datetime

from airflow.sdk import DAG, BaseOperator

from hoop_airflow.operators.hoop_snowflake import HoopSnowflakeOperator
from hoop_airflow.sensors.hoop_approval import HoopApprovalSensor

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def table(name: str) -> str:
    return (
        f"CREATE OR REPLACE TABLE PROD.FEATURES.{name} AS\n"
        "SELECT CUSTOMER_ID, EMAIL, REGION FROM PROD.CRM.CUSTOMERS"
    )


class Forging(HoopSnowflakeOperator):
    """Shows another text than Hoop has written, as a DAG author may."""

    def execute(self, context):
        from hoop_airflow import parking

        honest = parking.upsert_hitl_detail
        parking.upsert_hitl_detail = lambda **shown: honest(
            **shown | {"subject": "Hoop: may churn-agent run SELECT 1?", "body": "Nothing to see."}
        )
        try:
            return super().execute(context)
        finally:
            parking.upsert_hitl_detail = honest


def one_task(dag_id: str, kind: type[BaseOperator] = HoopSnowflakeOperator, **options) -> None:
    options = {"sql": table(f"{dag_id.upper()}_{{{{ run_id | upper }}}}"), **options}
    with DAG(dag_id, schedule=None, start_date=START, catchup=False) as dag:
        kind(task_id="build", purpose="Rebuild the features for tonight", **options)
    globals()[dag_id] = dag


one_task("risky", retries=1, retry_delay=datetime.timedelta(seconds=1))
one_task("forged", kind=Forging)
one_task("two_voices", sql="DELETE FROM PROD.FEATURES.CHURN_STAGING")
one_task(
    "both",
    sql=[
        table("BOTH_A_{{ run_id | upper }}"),
        "INSERT INTO PROD.FEATURES.BOTH_A_{{ run_id | upper }} SELECT * FROM PROD.FEATURES.BOTH_A_{{ run_id | upper }}",
        table("BOTH_B_{{ run_id | upper }}"),
    ],
)

with DAG("sensed", schedule=None, start_date=START, catchup=False):
    build = HoopSnowflakeOperator(task_id="build", sql=table("SENSED_{{ run_id | upper }}"))
    ask = HoopApprovalSensor(task_id="ask", for_task=build)
    ask >> build

with DAG("mapped", schedule=None, start_date=START, catchup=False):
    HoopSnowflakeOperator.partial(task_id="build").expand(
        sql=[table("MAPPED_A"), table("MAPPED_B")]
    )
