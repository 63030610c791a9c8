"""How far a plan was off is said in one way."""

from __future__ import annotations

from lorakit.train.clock import SMALL_BYTES, PeakMemory

MIB = 1 << 20


def test_a_plan_is_off_by_a_share_of_what_was_measured() -> None:
    assert "36% less than was measured" in PeakMemory(218 * MIB, 341 * MIB).describe()
    assert "50% more than was measured" in PeakMemory(300 * MIB, 200 * MIB).describe()


def test_why_a_small_model_takes_more_is_said_where_it_is_so() -> None:
    small, large = 300 * MIB, SMALL_BYTES + MIB
    assert "libraries" in PeakMemory(small // 2, small, on_cpu=True).off_by()
    for other in (
        PeakMemory(small // 2, small),  # a GPU counts tensors
        PeakMemory(large // 2, large, on_cpu=True),
        PeakMemory(int(small * 0.95), small, on_cpu=True),
        PeakMemory(2 * small, small, on_cpu=True),
    ):
        assert "libraries" not in other.off_by()
