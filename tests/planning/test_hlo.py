"""The reader of HLO text, on small programs as the compilers write them; every expected figure is counted by hand."""

from pathlib import Path

import pytest

from distilbert_jax.errors import InputError
from distilbert_jax.planning.hlo import operations

MIB = 2**20


def text_of(program):
    return (Path(__file__).parent / "programs" / f"{program}.hlo").read_text("utf-8")


def by_name(program):
    return {one.name: one for one in operations(text_of(program))}


def test_a_batched_matmul_is_counted_once_though_it_is_a_dilated_convolution():
    read = by_name("attention")
    assert set(read) == {"copy-start", "copy-done", "fusion"}
    fusion = read["fusion"]
    assert fusion.flops == 2 * 64 * 12 * 128 * 128 * 64
    assert fusion.cycles == 173424
    assert "attention" in fusion.scope


def test_what_lies_on_the_chip_is_no_traffic():
    read = by_name("attention")
    assert read["fusion"].bytes == (12 + 48) * MIB  # the keys and the scores; the queries were prefetched
    assert read["copy-start"].bytes == 12 * MIB
    assert read["copy-done"].bytes == 0
    assert [read[name].asynchronous for name in ("copy-start", "copy-done", "fusion")] == [True, True, False]


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    read = by_name("loop")
    dot = read["dot.1"]
    assert (dot.count, dot.cycles, dot.flops) == (5, 5000, 5 * 2 * 256**3)
    assert dot.bytes == 5 * 2 * 256 * 256 * 4  # the carry in and out; the weight is on the chip
    assert read["weight"].count == 5


CARRIED = ("%end = s32[]{:T(128)} constant(7)", "%end = s32[]{:T(128)} get-tuple-element(%arg.1), index=2")
FUSED = (
    "ROOT %less = pred[]{:T(512)} compare(%counter, %end), direction=LT",
    "ROOT %less = pred[] fusion(%counter, %end), kind=kLoop, calls=%compared",
)
COMPARED = """
%compared (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %fewer = pred[] compare(%a, %b), direction=LT
}
"""


@pytest.mark.parametrize(
    ("change", "trips"),
    [(("", ""), 7), (("constant(0)", "constant(3)"), 4), (CARRIED, 9), (FUSED, 7)],
    ids=["as it stands", "begins at three", "the bound is carried", "the comparison is fused"],
)
def test_a_loop_that_does_not_say_how_often_it_runs_counts_by_its_counters_bound(change, trips):
    text = text_of("counter").replace(*change).replace("\n%condition", f"{COMPARED}\n%condition")
    (dot,) = (one for one in operations(text) if one.name == "dot.1")
    assert (dot.count, dot.cycles) == (trips, trips * 1000)


def test_a_loop_whose_runs_cannot_be_told_is_refused():
    with pytest.raises(InputError, match="jit\\(f\\)/while"):
        operations(text_of("counter").replace("direction=LT", "direction=NE"))


@pytest.mark.parametrize(
    ("name", "kind", "sent", "group", "asynchronous"),
    [
        ("all-gather.1", "all-gather", 32 * 128 * 4, 4, False),
        ("all-reduce-start.1", "all-reduce", 1024 * 4, 4, True),
        ("all-reduce-done.1", "", 0, 1, True),
        ("reduce-scatter.1", "reduce-scatter", 1024 * 4, 4, False),
        ("all-reduce.2", "all-reduce", 1024 * 4, 2, False),  # along one axis of a mesh
        ("all-reduce.3", "all-reduce", 1024 * 4, 8, False),  # along two
        ("all-reduce.4", "all-reduce", 1024 * 4, 4, False),  # along half of one, and the other
        ("all-reduce.5", "all-reduce", 1024 * 4, 8, False),  # among all devices, in no groups
        ("all-gather.9", "all-gather", 2048 * 4, 4, True),  # within fusions, once
        ("add.1", "", 0, 1, False),
    ],
)
def test_collectives_have_their_kind_their_bytes_and_their_group(name, kind, sent, group, asynchronous):
    one = by_name("collectives")[name]
    assert (one.collective, one.sent, one.group, one.asynchronous) == (kind, sent, group, asynchronous)


def test_what_takes_or_changes_a_part_of_an_array_moves_that_part_alone():
    read = by_name("traffic")
    row, picked, table = 768 * 4, 64 * 768 * 4, 30592 * 768 * 4
    assert read["gather_fusion"].bytes == 2 * picked  # the indices and nothing else are on the chip
    assert read["scatter_fusion"].bytes == 3 * picked  # what is added, and those rows of the table before and after
    assert read["filled_fusion"].bytes == table + picked  # a table that begins in the fusion is written whole
    assert read["dynamic-update-slice.1"].bytes == 3 * row + 4  # the place is a scalar
    assert read["slice-start.1"].bytes == table / 4  # to the chip; its type names the whole table
    assert read["slice-start.1"].asynchronous
    assert read["copy-start.1"].bytes == 2 * picked  # from HBM to HBM


def test_what_the_compiler_added_has_the_scope_of_what_reads_it():
    read = by_name("traffic")
    assert read["broadcast.1"].scope == read["select_fusion"].scope == "jit(step)/jvp(encoder)/dropout/select_n"
    assert read["copy.1"].scope == read["broadcast.1"].scope  # through another without a scope
    assert read["gather_fusion"].scope == "jit(step)/jvp(encoder)/gather"  # of what is in the fusion
    assert read["copy.2"].scope == read["select_fusion"].scope  # of what it reads, where nothing reads it


def test_text_without_a_program_has_no_operations():
    assert operations("") == operations("HloModule nothing\n") == []
