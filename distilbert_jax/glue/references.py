"""GLUE's nine columns, and the scores that have been reported for them."""

from collections.abc import Mapping

GLUE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")  # the paper's columns

# Dev scores of the paper's table 1 (medians of five runs), and what the model card of distilbert-base-uncased reports.
REFERENCES: dict[str, dict[str, float]] = {
    "ELMo": dict(zip(GLUE, (44.1, 68.6, 76.6, 71.1, 86.2, 53.4, 91.5, 70.4, 56.3), strict=True)),
    "BERT-base": dict(zip(GLUE, (56.3, 86.7, 88.6, 91.8, 89.6, 69.3, 92.7, 89.0, 53.5), strict=True)),
    "DistilBERT": dict(zip(GLUE, (51.3, 82.2, 87.5, 89.2, 88.5, 59.9, 91.3, 86.9, 56.3), strict=True)),
    "model card": dict(zip(GLUE[:-1], (51.3, 82.2, 87.5, 89.2, 88.5, 59.9, 91.3, 85.8), strict=True)),
}
REMARKS = {
    "stsb": "STS-B: the model card says 85.8, the paper 86.9; only 86.9, with WNLI, gives the mean 77.0 that both report.",
    "mnli": "MNLI of BERT-base: the paper says 86.7, its code 84.7; only 84.7 gives the paper's mean of 79.5.",
    "wnli": "WNLI: 56.3 is the share of the majority class (40 of 71); eight-task means leave WNLI out.",
}


def _as_scored(
    cola: float, sst2: float, mrpc: str, stsb: str, qqp: str, mnli: float, qnli: float, rte: float, wnli: float
) -> dict[str, float]:
    """A row of a table that has two metrics as "81.1/71.1", with the mean of the two, in the order of `GLUE`."""
    mean = lambda pair: sum(map(float, pair.split("/"))) / 2
    scores = (cola, mnli, mean(mrpc), qnli, mean(qqp), rte, sst2, mean(stsb), wnli)
    return dict(zip(GLUE, scores, strict=True))


# Test scores of the small BERTs of Turc et al. 2019 (arXiv 1908.08962), as the README of google-research/bert has them (11 March
# 2020): F1/accuracy, Pearson/Spearman, F1/accuracy; MNLI matched.
TEST_SCORES: Mapping[str, Mapping[str, float]] = {
    "BERT-Tiny": _as_scored(0.0, 83.2, "81.1/71.1", "74.3/73.6", "62.2/83.4", 70.2, 81.5, 57.2, 62.3),
    "BERT-Mini": _as_scored(0.0, 85.9, "81.1/71.8", "75.4/73.3", "66.4/86.2", 74.8, 84.1, 57.9, 62.3),
    "BERT-Small": _as_scored(27.8, 89.7, "83.4/76.2", "78.8/77.0", "68.1/87.0", 77.6, 86.4, 61.8, 62.3),
    "BERT-Medium": _as_scored(38.0, 89.6, "86.6/81.6", "80.4/78.4", "69.6/87.9", 80.0, 87.7, 62.2, 62.3),
}
TEST_REMARK = (
    "Columns called test are scores on GLUE's test sets as they were published (Turc et al. 2019), each with the best setting of a "
    "grid; how it was chosen, and of how many seeds, is not told. The other columns are medians on dev, with settings chosen on "
    "train. Rows, choice and seeds differ: a few points between the two say nothing, and of WNLI, which models of these sizes do "
    "not learn, no number does."
)
