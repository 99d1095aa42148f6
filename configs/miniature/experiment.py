"""The paper's experiment in miniature: teacher, students, controls, held-out text, GLUE, and one table of it all.

    python -m distilbert_jax.experiments.experiment configs/miniature/experiment.py \
      --text wikipedia.txt.xz novels.txt.xz --heldout-text heldout.txt.xz --data GLUE_FOLDER

`experiment.py:gpu` is the same with twenty times the tokens, all tasks, five seeds and the parts of the loss left out in turn;
`experiment.py:toy` runs every part of it, too briefly to learn anything.
Cost, results and what fell short: docs/results/miniature.md.
"""

from collections.abc import Callable

from configs.miniature import cut, mlm, no_ce, no_cos, no_mlm, random_mlm, random_triple, teacher, triple
from configs.miniature.tiers import encoder, find_tier
from distilbert_jax.config import ExperimentConfig, FinetuneConfig, PretrainConfig, RunConfig, Variant


def get_config(tier: str = "cpu") -> ExperimentConfig:
    budget = find_tier(tier)

    def variant(config: Callable[[str], PretrainConfig], seeds: tuple[int, ...] = budget.seeds) -> Variant:
        found = config(tier)
        return Variant(found.run.directory.rpartition("/")[2], seeds, pretrain=found)

    parts = (no_ce, no_mlm, no_cos) if budget.ablations else ()
    return ExperimentConfig(
        directory=f"runs/miniature/{tier}",
        variants=(
            variant(teacher.get_config),
            variant(triple.get_config),
            variant(mlm.get_config),
            variant(random_triple.get_config, budget.seeds_of_random),
            variant(random_mlm.get_config, budget.seeds_of_random),
            *(variant(part.get_config) for part in parts),
            variant(cut.get_config),
            Variant("minilm", budget.seeds, model=encoder()),
        ),
        teacher="teacher",
        student="triple",
        tokenizer=encoder(),
        tasks=budget.tasks,
        sweep=budget.sweep,
        vmap_seeds=budget.vmap_seeds,
        heldout_rows=budget.heldout_rows,
        glue=FinetuneConfig(
            max_train_rows=budget.max_train_rows,
            save_model=False,
            run=RunConfig(directory="", dtype="bfloat16", log_every=200),
        ),
    )
