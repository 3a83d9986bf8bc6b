"""The report of the digits, and that it can be drawn and read again from its folder."""

import pytest

import landscape as ls

pytestmark = pytest.mark.slow  # of its minutes, most are spent in the compiler


def test_report_of_the_digits(smoke):
    done, out, landscapes = smoke
    assert (out / "report.png").exists()
    assert "largest eigenvalues" in done.stdout
    assert "Not looked at" in done.stderr
    found = landscapes["report"].meta["report"]
    assert found["worst"]["value"] < found["radius"]["interval"][0]
    assert found["model"]["num_params"] == 26_122
    assert ls.analysis.report_text(landscapes["report"]) in done.stderr
