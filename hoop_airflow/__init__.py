"""Hoop for Apache Airflow: hook, operator, sensor and plugin. They hold Hoop's address and the job's token only.

Airflow loads this module very early, while it still reads its own configuration: it must not import
Airflow.
"""

from __future__ import annotations

from typing import Any


def _text(label: str, description: str) -> dict[str, Any]:
    return {
        "label": label,
        "description": description,
        "schema": {"type": ["string", "null"]},
    }


def get_provider_info() -> dict[str, Any]:
    """What Airflow's provider manager wants to know (schema: airflow/provider_info.schema.json)."""
    return {
        "package-name": "hoop-guard",
        "name": "Hoop",
        "description": "Snowflake through Hoop: verified identity, policy, approvals, masking, evidence.",
        "integrations": [
            {
                "integration-name": "Hoop",
                "tags": ["service"],
            }
        ],
        "hooks": [
            {
                "integration-name": "Hoop",
                "python-modules": ["hoop_airflow.hooks.hoop_snowflake"],
            }
        ],
        "operators": [
            {
                "integration-name": "Hoop",
                "python-modules": ["hoop_airflow.operators.hoop_snowflake"],
            }
        ],
        "sensors": [
            {
                "integration-name": "Hoop",
                "python-modules": ["hoop_airflow.sensors.hoop_approval"],
            }
        ],
        "extra-links": ["hoop_airflow.links.HoopApprovalLink"],
        "connection-types": [
            {
                "hook-class-name": "hoop_airflow.hooks.hoop_snowflake.HoopSnowflakeHook",
                "hook-name": "Snowflake through Hoop",
                "connection-type": "hoop_snowflake",
                "ui-field-behaviour": {
                    "hidden-fields": ["login"],
                    "relabeling": {
                        "host": "Hoop's address",
                        "password": "Identity token",
                        "schema": "Schema",
                    },
                    "placeholders": {
                        "host": "https://hoop.example.com",
                        "password": "leave empty: better a token file",
                    },
                },
                "conn-fields": {
                    "token_file": _text(
                        "Token file", "The job's projected OIDC token; read again at each use."
                    ),
                    "token_env": _text(
                        "Token variable", "The environment variable that holds the token."
                    ),
                    "database": _text("Database", "The session's database."),
                    "role": _text("Role", "A Snowflake role that policy binds to the caller."),
                    "warehouse": _text("Warehouse", "The warehouse, if not the role's own."),
                    "airflow": _text(
                        "Airflow",
                        "What Hoop's settings call this Airflow, where they know several.",
                    ),
                },
            }
        ],
    }
