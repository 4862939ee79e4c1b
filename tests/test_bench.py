"""What `hoop bench` measures is what it says it measures."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hoop_core.bench import analysis, overhead, plot
from hoop_core.bench.corpus import tpcds
from hoop_core.bench.figures import Spread
from hoop_core.bench.streaming import Memory
from hoop_core.cli.root import app
from hoop_core.sql.dialect import SNOWFLAKE
from hoop_core.sql.limits import DEFAULT

LINE = [(100.0, 1.0), (1000.0, 10.0), (20000.0, 200.0)]


def test_percentiles_are_in_the_unit_asked_for() -> None:
    spread = Spread.of([n / 1000 for n in range(101)])
    assert (spread.p50, spread.p95, spread.p99) == (50.0, 95.0, 99.0)
    assert Spread.of([0.001, 0.001], 1e6).p50 == 1000.0


@pytest.mark.parametrize("size", analysis.SIZES)
def test_a_long_statement_has_about_the_words_asked_for_and_is_within_bounds(size: int) -> None:
    words = len(SNOWFLAKE.tokenize(analysis.long_text(size)))
    assert 0.85 * size <= words <= 1.2 * size
    assert words <= DEFAULT.max_tokens


def test_each_round_masks_other_columns_of_tables_that_the_statement_reads() -> None:
    corpus = tpcds()
    found = analysis.cases(corpus, rounds=2)
    assert len(found) == 2 * len(corpus.statements)
    assert len({policy.digest for _, policy in found}) > 100


def test_the_fit_tells_a_straight_line_from_a_square() -> None:
    assert plot.fit(LINE) == pytest.approx(1)
    assert plot.slope(LINE) == pytest.approx(0.01)
    assert plot.fit([(x, x * x) for x, _ in LINE] + [(10_000.0, 1e8)]) < 0.97


def test_the_plot_is_readable_and_well_formed(tmp_path: Path) -> None:
    assert len(plot.bars(LINE).splitlines()) == 1 + len(LINE)
    plot.write_svg(tmp_path / "cost.svg", LINE)
    root = ET.fromstring((tmp_path / "cost.svg").read_text())  # our own file
    assert len(root.findall("{*}circle")) == len(LINE)


def test_a_part_can_be_measured_alone() -> None:
    arguments = ["bench", "--only", "detectors", "--rows", "1000", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert set(answer) == {"detectors"}
    assert all(row["hoop_MB_s"] > 0 and "presidio_MB_s" in row for row in answer["detectors"])


def test_what_hoop_adds_is_counted_from_the_text_that_it_ran() -> None:
    found = overhead.spreads({"direct": [0.001] * 3, "rewritten": [0.004] * 3, "hoop": [0.006] * 3})
    assert found["added"] == {"p50_ms": 2.0, "p95_ms": 2.0, "p99_ms": 2.0}
    lines = list(overhead.rows([{"statement": "one", "runs": 3, **found}]))
    assert [line["way"] for line in lines][-1] == "added" and len(lines) == 4


def test_growth_is_the_most_that_a_process_took_meanwhile() -> None:
    with Memory(os.getpid()) as memory:
        taken = bytearray(os.urandom(1 << 20) * 64)
        assert memory.looked(3)
        del taken
    assert memory.growth is not None and 40 < memory.growth < 200


@pytest.mark.nightly
@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.parametrize("section", ["overhead", "streaming"])
def test_the_gateway_is_measured_beside_the_direct_way(section: str) -> None:
    arguments = ["bench", "--only", section, "--runs", "5", "--result-rows", "50000", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    if section == "overhead":
        assert {"direct", "rewritten", "hoop", "added"} <= set(answer["statements"][0])
    else:
        assert [one["percent_of_direct"] > 0 for one in answer["streaming"]] == [True] * 3
