"""The same work in PyTorch + transformers, written as fast as its own means allow without changing what is computed.

SDPA attention, fused AdamW, the MLM loss at the drawn positions only. The original's code gathers the logits of all
real tokens first; rows are full here, so that copy is left out. In bfloat16 the student trains under autocast (float32 parameters,
as ours; pure bfloat16 parameters lose small updates) and the frozen teacher's weights are bfloat16; for inference autocast and
bfloat16 weights are both candidates.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch._inductor.config
import torch.nn.functional as F
import transformers

from distilbert_jax.config import LossConfig, OptimizerConfig

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Call = Callable[[], object]


def load(directory: Path, attention: str = "sdpa") -> torch.nn.Module:
    """The masked LM of an HF directory."""
    return transformers.AutoModelForMaskedLM.from_pretrained(directory, attn_implementation=attention)


def _autocast(dtype: str, device: str = "cpu") -> contextlib.AbstractContextManager:
    return torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")


def tensors(batch: dict[str, np.ndarray], *names: str) -> dict[str, torch.Tensor]:
    """Some arrays of a batch as int64 tensors."""
    return {name: torch.from_numpy(batch[name].astype(np.int64)) for name in names}


class Distillation:
    """One distillation step of `student` from `teacher` (HF directories, or models) on a fixed batch: calling it returns the loss.

    Without an `attention_mask` in the batch all rows are full, and no mask is given to the models.
    """

    def __init__(
        self,
        teacher: Path | torch.nn.Module,
        student: Path | torch.nn.Module,
        batch: dict[str, np.ndarray],
        dtype: str,
        loss: LossConfig,
        optimizer: OptimizerConfig,
        compiled: bool = False,
        device: str = "cpu",
    ):
        names = [name for name in ("input_ids", "attention_mask") if name in batch]
        self.inputs, self.device = {name: one.to(device) for name, one in tensors(batch, *names).items()}, device
        offsets = np.arange(len(batch["positions"]))[:, None] * batch["input_ids"].shape[1]
        self.masked_at = torch.from_numpy((batch["positions"] + offsets).ravel()).to(device)  # in [B·T]
        self.labels = torch.from_numpy(batch["labels"].astype(np.int64).ravel()).to(device)
        read = lambda model: load(model) if isinstance(model, Path) else model
        self.teacher = read(teacher).eval().requires_grad_(False).to(device, DTYPES[dtype])
        self.student = read(student).train().to(device)
        self.config, self.dtype, self.clip_norm = loss, dtype, optimizer.clip_norm
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(),
            lr=optimizer.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self.forward = self.loss
        if compiled:
            self.compile()

    def loss(self) -> torch.Tensor:
        """The triple loss, float32 scalar."""
        with _autocast(self.dtype, self.device):
            with torch.no_grad():
                t = self.teacher(**self.inputs, output_hidden_states=True)
            s = self.student(**self.inputs, output_hidden_states=True)
        T, V = self.config.kl.temperature, s.logits.shape[-1]
        s_logits, t_logits = s.logits.float().view(-1, V), t.logits.float().view(-1, V)
        ce = F.kl_div(F.log_softmax(s_logits / T, -1), F.softmax(t_logits / T, -1), reduction="batchmean") * T**2
        mlm = F.cross_entropy(s_logits[self.masked_at], self.labels)
        cos = 1 - F.cosine_similarity(s.hidden_states[-1].float(), t.hidden_states[-1].float(), dim=-1).mean()
        return self.config.kl.weight * ce + self.config.mlm.weight * mlm + self.config.cos.weight * cos

    def loss_without_dropout(self) -> float:
        """The loss, for comparison with the other side's."""
        self.student.eval()
        with torch.no_grad():
            value = self.loss().item()
        self.student.train()
        return value

    def compile(self) -> None:
        self.forward = torch.compile(self.loss)

    def step(self) -> torch.Tensor:
        """The loss, which may not be computed yet."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def __call__(self) -> float:
        return self.step().item()


def steps(compiled: bool, dtype: str, **setting: object) -> Iterator[tuple[str, Call]]:
    """A distillation step: (how, step)."""
    how = ["autocast"] * (dtype == "bfloat16") + ["eager"] * (not compiled)
    yield ", ".join(how), Distillation(dtype=dtype, compiled=compiled, **setting)


def encoders(compiled: bool, dtype: str, student: Path, batch: dict[str, np.ndarray]) -> Iterator[tuple[str, Call]]:
    """Candidates for encoder inference: (how, call that returns the last hidden state [B, T, D]).

    Compiled ones have their weights frozen into the program (`torch._inductor.config.freezing`), which packs them.
    """
    inputs = tensors(batch, "input_ids", "attention_mask")

    def call(encoder: torch.nn.Module, autocast: bool) -> Call:
        @torch.no_grad()  # freezing knows no inference_mode
        def run() -> torch.Tensor:
            with _autocast("bfloat16" if autocast else "float32"), _frozen(compiled):
                return encoder(**inputs).last_hidden_state

        return run

    for how in ["autocast", "bfloat16 weights"] if dtype == "bfloat16" else [""]:
        encoder = load(student).eval().distilbert.to(DTYPES[dtype] if how == "bfloat16 weights" else torch.float32)
        prefix = f"{how}, " if how else ""
        made = torch.compile(encoder) if compiled else encoder
        yield f"{prefix}{'weights frozen' if compiled else 'eager'}", call(made, how == "autocast")


def _frozen(compiled: bool) -> contextlib.AbstractContextManager:
    return torch._inductor.config.patch(freezing=True) if compiled else contextlib.nullcontext()


def matmul(size: int, dtype: str) -> Call:
    """A product of two square matrices, for the processor's ceiling."""
    left, right = (torch.randn(size, size, dtype=DTYPES[dtype]) for _ in range(2))
    return lambda: left @ right
