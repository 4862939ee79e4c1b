"""Names that Hoop leaves on runs and events, for people in Dagster's UI and for the sensor."""

from __future__ import annotations

import re
from enum import StrEnum

IDENTIFIER = re.compile(r"apr_[0-9a-f]{20}")
"""Of a request."""

APPROVAL_ID = "hoop/approval_id"
APPROVAL_URL = "hoop/approval_url"
APPROVAL_STATUS = "hoop/approval_status"
APPROVED_BY = "hoop/approved_by"
RESUMES_RUN = "hoop/resumes_run"
RESUMED_BY = "hoop/resumed_by"
ROOT_RUN_ID = "hoop/root_run_id"
ROOT_JOB_NAME = "hoop/root_job_name"
RETRIES_BEFORE = "hoop/retries_before"
"""What RETRIES said before Hoop turned it off; empty: nothing."""

RETRIES = "dagster/retry_on_asset_or_op_failure"
"""Dagster's own: whether a run that failed in a step is tried again (run retries)."""
PARENT_RUN_ID = "dagster/parent_run_id"
"""Dagster's own: the run that was re-executed."""


class RunState(StrEnum):
    """APPROVAL_STATUS of a run that ended because a statement waited for people."""

    AWAITING = "awaiting"
    RESUMED = "resumed"
    SUPERSEDED = "superseded"  # somebody re-executed it by hand meanwhile
    REFUSED = "refused"  # rejected, or taken back
    EXPIRED = "expired"
    USED = "used"  # another run has used the grant
    BY_HAND = "approved"  # approved; the sensor cannot start what was left
