"""The recipe of the shipped model: grammar -> tokenizer -> a small Llama, run by hand.

`python -m microworld.train --minutes 95` writes `microworld/model/`. The rate warms up, stays, and
falls to zero over the last part of the time; a file called `finish` in the work folder starts the
fall at once. Fresh documents throughout: no text is seen twice before the corpus is used up. A
killed run goes on from its last checkpoint, with the documents in a new order. Training sees
log-likelihoods and nothing else; what the model can do is measured at the end, by
`microworld.examine`.

On some machines freshly mapped memory is slow; `MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0
MALLOC_TRIM_THRESHOLD_=20000000000` in the environment keeps it, and made a step eight times faster.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microworld import MODEL_DIR
from microworld.errors import TrainingError
from microworld.examine import examine, write_figures
from microworld.grammar import documents, grammar_hash
from microworld.judge import log_prob
from microworld.recipe import Recipe, batches, encoded_corpus, rate_at
from microworld.tokenizer import BOS, CONTEXT, EOS, PAD, build_tokenizer, save_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

__all__ = ["main", "new_model"]


WORK_DIR = Path(".work/microworld")
log = logging.getLogger("microworld.train")


def new_model(recipe: Recipe, vocab_size: int) -> LlamaForCausalLM:
    """A Llama with fresh weights, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.weight_seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, head and norms."""
    import torch

    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    known = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(inside, lr=recipe.muon_rate, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def loss_function(model: LlamaForCausalLM) -> Callable[[torch.Tensor], torch.Tensor]:
    """Ids -> summed nats of every piece after the first, padding left out; compiled."""
    import torch
    from torch.nn import functional

    def loss(ids: torch.Tensor) -> torch.Tensor:
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        return functional.cross_entropy(
            model.lm_head(hidden).flatten(0, 1),
            ids[:, 1:].flatten(),
            ignore_index=2,
            reduction="sum",
        )

    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(loss, dynamic=True)
    return compiled


def export(
    model: LlamaForCausalLM, mean: list[torch.Tensor], folder: Path, record: dict[str, Any]
) -> None:
    """Write config, weights (the running mean) and record; each file whole or absent."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name, _ in model.named_parameters()]
    scratch = folder / ".model.safetensors.partial"
    weights = {name: value.contiguous() for name, value in zip(names, mean, strict=True)}
    save_file(weights, str(scratch), metadata={"format": "pt"})
    scratch.chmod(0o644)
    os.replace(scratch, folder / "model.safetensors")
    config = {
        **model.config.to_diff_dict(),
        "architectures": ["LlamaForCausalLM"],
        "dtype": "float32",
    }
    for name, content in (("config.json", config), ("record.json", record)):
        scratch = folder / f".{name}.partial"
        scratch.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(scratch, folder / name)


@dataclass(slots=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    tokens: int = 0
    spent: float = 0.0
    """Seconds of training, earlier runs included."""
    decay_from: float = math.inf
    until: float = math.inf


class Run:
    """One training run: weights, optimisers, running mean, and how far it has come."""

    def __init__(self, recipe: Recipe, work: Path, out: Path, seconds: float) -> None:
        import torch
        from tokenizers import Tokenizer

        self.recipe, self.work, self.out = recipe, work, out
        self.tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
        if [self.tokenizer.token_to_id(t) for t in (BOS, EOS, PAD)] != [0, 1, 2]:
            raise TrainingError(
                "the tokenizer's special pieces are not 0, 1, 2; expected BOS, EOS, PAD in that "
                f"order; delete {work / 'tokenizer.json'} and start again"
            )
        self.model = new_model(recipe, self.tokenizer.get_vocab_size())
        self.loss = loss_function(self.model)
        self.optimizers = optimizers(self.model, recipe)
        self.full_rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.mean = [p.detach().clone() for p in self.model.parameters()]
        self.at = Progress(decay_from=seconds * (1 - recipe.decay_share), until=seconds)
        self.saved = work / f"checkpoint-{grammar_hash()}.pt"
        if self.saved.exists():
            state = torch.load(self.saved, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.mean = state["mean"]
            for optimizer, known in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(known)
            self.at.step, self.at.tokens, self.at.spent = state["at"]
        self.heldout: dict[str, list[list[int]]] = {}
        self.floor: dict[str, float] = {"all": 0.0}
        for document in documents(512, recipe.heldout_seed):
            row = [*self.tokenizer.encode(document.text).ids, 1]
            self.heldout.setdefault(document.kind, []).append(row)
            nats = -log_prob(document.text)
            self.floor[document.kind] = self.floor.get(document.kind, 0.0) + nats
            self.floor["all"] += nats / 512
        for kind, rows in self.heldout.items():
            rows.sort(key=len)
            self.floor[kind] /= len(rows)

    def save(self) -> None:
        """Keep everything that the next step depends on."""
        import torch

        scratch = self.saved.with_suffix(".partial")
        state = {
            "model": self.model.state_dict(),
            "mean": self.mean,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "at": (self.at.step, self.at.tokens, self.at.spent),
        }
        torch.save(state, scratch)
        os.replace(scratch, self.saved)

    def heldout_nats(self) -> dict[str, float]:
        """Kind -> mean nats a document on held-out documents, by the running mean."""
        import torch

        kept = [p.detach().clone() for p in self.model.parameters()]
        found = {}
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), self.mean, strict=True):
                parameter.copy_(value)
            for kind, texts in self.heldout.items():
                total = 0.0
                for first in range(0, len(texts), 64):
                    rows = texts[first : first + 64]
                    width = len(rows[-1])
                    padded = torch.tensor([r + [2] * (width - len(r)) for r in rows])
                    total += float(self.loss(padded))
                found[kind] = total / len(texts)
            for parameter, value in zip(self.model.parameters(), kept, strict=True):
                parameter.copy_(value)
        found["all"] = sum(found[k] * len(t) for k, t in self.heldout.items()) / 512
        return found

    def train_step(self, ids: torch.Tensor) -> None:
        """One step of both optimisers, and of the running mean."""
        import torch

        share = rate_at(
            self.at.step, self.at.spent, self.at.decay_from, self.at.until, self.recipe.warmup_steps
        )
        for optimizer, full in zip(self.optimizers, self.full_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = full * share
        count = int((ids[:, 1:] != 2).sum())
        torch.autograd.backward(self.loss(ids) / count)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        weight = min(self.recipe.average, self.at.step / (self.at.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.mean, list(self.model.parameters()), 1 - weight)
        self.at.step += 1
        self.at.tokens += count

    def shares(self) -> Mapping[str, float]:
        """Kind -> share of its documents that is kept now; the fall sees the world as it is."""
        if self.at.spent >= self.at.decay_from:
            return {}
        return dict(next(s for first, s in reversed(self.recipe.stages) if self.at.step >= first))

    def record(self, nats: float) -> dict[str, Any]:
        """What made these weights: no time and no path."""
        return {
            "grammar": grammar_hash(),
            "recipe": asdict(self.recipe),
            "steps": self.at.step,
            "tokens_seen": self.at.tokens,
            "heldout_nats_512": round(nats, 3),
        }

    def go(self, checkpoint_every: float, export_every: float) -> None:
        """Train until the time is up, saving and exporting on the way."""
        corpus = encoded_corpus(self.recipe, self.work)
        finish = self.work / "finish"
        last_save = last_export = self.at.spent
        last_export -= export_every * 0.75
        known: Mapping[str, float] | None = None
        while True:
            shares = self.shares()
            if shares != known:
                rows = batches(corpus, self.recipe, self.at.step, shares)
                known = shares
            ids = next(rows)
            began = time.monotonic()
            self.train_step(ids)
            self.at.spent += time.monotonic() - began
            spent = self.at.spent
            if finish.exists() and spent < self.at.decay_from:
                length = self.recipe.decay_share / (1 - self.recipe.decay_share) * spent
                self.at.decay_from, self.at.until = spent, min(spent + length, self.at.until)
            done = spent >= self.at.until
            if self.at.step % 100 == 0 or done:
                nats = self.heldout_nats()
                log.info(
                    "step %d  tokens %.2fM  minutes %.1f  held out %.3f, floor %.3f; above it: %s",
                    self.at.step,
                    self.at.tokens / 1e6,
                    spent / 60,
                    nats["all"],
                    self.floor["all"],
                    "  ".join(f"{k} {nats[k] - self.floor[k]:.2f}" for k in self.heldout),
                )
                if spent - last_export >= export_every or done:
                    export(self.model, self.mean, self.out, self.record(nats["all"]))
                    save_tokenizer(self.tokenizer, self.out)
                    log.info("exported to %s", self.out)
                    last_export = spent
            if spent - last_save >= checkpoint_every or done:
                self.save()
                last_save = spent
            if done:
                return


def main() -> None:
    """Train, export, and examine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=95.0, help="training time in all")
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--work", type=Path, default=WORK_DIR)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export-every", type=float, default=15.0, help="minutes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    import torch

    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    recipe = Recipe()
    options.work.mkdir(parents=True, exist_ok=True)
    if not (options.work / "tokenizer.json").exists():
        texts = (row.text for row in documents(recipe.tokenizer_documents, recipe.tokenizer_seed))
        save_tokenizer(build_tokenizer(texts), options.work)
    Run(recipe, options.work, options.out, options.minutes * 60).go(
        180.0, options.export_every * 60
    )
    write_figures(options.out, examine(options.out))


if __name__ == "__main__":
    main()
