"""What `leandet time` does: subjects by name, one session, the records kept and shown. No torch in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from bench.progress import showing
from bench.subjects import Conditions, find_subject
from bench.timing import Manner, time_subjects
from bench.timing_records import keep
from bench.types import UserError


def time_rows(names: Sequence[str], tier: str, conditions: Conditions, manner: Manner, *, as_json: bool = False) -> bool:
    """Time the named detectors together, keep and print their records; whether none failed and no audit found anything.

    UserError at the end for those that cannot have the form asked for; the others are timed before.
    """
    if manner.patience_s <= 0:
        raise UserError(f"--timeout {manner.patience_s:g}: allowed: more than 0 seconds")
    subjects = [find_subject(name, tier, conditions.data) for name in names]
    with showing(quiet=as_json) as show:
        session = time_subjects(subjects, conditions, manner, show)
    records = keep(session)
    if as_json:
        print(json.dumps([asdict(record) for record in records], indent=1))  # noqa: T201 - the command's answer
    else:
        from rich.console import Console

        from bench.timing_table import print_latencies

        print_latencies(records, Console())
    refused = [f"{lane.subject.label}: {lane.failed}" for lane in session.lanes if lane.refused]
    if refused:
        raise UserError("; ".join(refused))
    return all(record.status == "ok" and record.context["audits"] in ("not asked for", []) for record in records)
