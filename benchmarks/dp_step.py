"""One logical batch of DP-SGD on a LoRA adapter, against what people use today.

    python benchmarks/dp_step.py [--quick] [--batch 64] [--threads 2]

Dolly's real lengths (cut at 512 tokens), 64 records a batch, LoRA rank 8 on all linear
layers, labels on responses. On the same logical batches, in turn: our step with DP; our
own without (hooks off, no clip, no noise); Opacus as documented (`PrivacyEngine`,
`BatchMemoryManager` with 8 records, one loss per record, full logits); a PEFT loop
without privacy in batches of 8 as drawn. Hugging Face's `Trainer` without privacy, with
Shepherd's settings (8 records times 8 accumulated) and grouped by length, takes records
of its own choice: it is compared per token of its records. Peak memory is of one batch,
each in a process of its own. `--quick`: the public base model with 4 k tokens, three
repeats, against Opacus alone; else a Llama of 6 layers and width 256 with 50 k tokens,
whose ids are drawn.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

import numpy as np
import torch
from _allocation import DATA
from _record import arguments, report
from _step_peers import PEERS, Bench

from fedit_secure.tuning.memory import peak_bytes
from fedit_secure.tuning.worker import keep_freed_memory

CLAIMS = {
    "speedup_vs_opacus": (5.0, True),
    "speedup_vs_hf_trainer": (1.5, True),
    "dp_over_nonprivate": (1.15, False),
    "peak_memory_vs_opacus": (1.0, False),
    "gap_to_opacus": (2e-5, False),
    "cuda_dp_over_nonprivate": (1.05, False),
}
QUICK_CLAIMS = CLAIMS | {"speedup_vs_opacus": (2.0, True)}
del QUICK_CLAIMS["speedup_vs_hf_trainer"]
SMALL, LARGE = 4096, 50_257
WEIGHED = ("ours", "ours_nonprivate", "opacus")


def peak_mib(options: argparse.Namespace, peer: str, device: str) -> float:
    """What one logical batch of `peer` adds to a process that has the model."""
    command = [sys.executable, __file__, "--peak", peer, "--device", device]
    for name in ("vocabulary", "batch", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(options: argparse.Namespace) -> None:
    """Print the MiB; the pass before it is small, and only loads libraries."""
    device = torch.device(options.device)
    bench = Bench(options.vocabulary, options.batch, 1, device)
    bench.run("ours", bench.batches[0][:2])
    taken = peak_bytes(device, lambda: bench.run(options.peak, bench.batches[0]))
    print(taken / 2**20)


def measure(options: argparse.Namespace, device: str) -> tuple[dict[str, float], Bench]:
    """All figures on one device, the peers in turn."""
    peers = WEIGHED if options.quick else PEERS
    repeats = 3 if options.quick else 5
    bench = Bench(options.vocabulary, options.batch, repeats, torch.device(device))
    gap = bench.gap_to_opacus()
    for peer in peers:  # libraries load, memory is taken
        bench.run(peer, bench.batches[0][:8])
    taken: dict[str, list[float]] = {peer: [] for peer in peers}
    for records in bench.batches:
        for peer in peers:
            took = bench.seconds(peer, records)
            taken[peer].append(1e6 * took / bench.tokens(peer, records))
    took_by = {peer: statistics.median(times) for peer, times in taken.items()}
    ratios = {
        peer: statistics.median(
            theirs / ours
            for theirs, ours in zip(taken[peer], taken["ours"], strict=True)
        )
        for peer in peers
    }
    peaks = {peer: peak_mib(options, peer, device) for peer in WEIGHED}
    seconds = bench.seconds_of_batch(took_by["ours"])
    return {
        **{f"speedup_vs_{p}": r for p, r in ratios.items() if not p.startswith("ours")},
        "dp_over_nonprivate": 1 / ratios["ours_nonprivate"],
        "peak_memory_vs_opacus": peaks["ours"] / peaks["opacus"],
        "gap_to_opacus": gap,
        "noise_share": bench.noise_seconds() / seconds,
        **{f"{peer}_microseconds_per_token": took_by[peer] for peer in peers},
        **{f"{peer}_peak_mebibytes": peaks[peer] for peer in peaks},
        "seconds_per_batch": seconds,
    }, bench


def main() -> None:
    """Measure in turn, print the table and the JSON line; exit 1 if a claim fails."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--batch", type=int, default=64, help="records of a batch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--vocabulary", type=int, help="tokens of the model")
    parser.add_argument("--peak", help="print the peak memory of this peer alone")
    parser.add_argument("--device", default="cpu", help="where the peak is taken")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit("this needs Dolly in shared/data beside the checkout")
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # for all of them: ours does it in its worker
    options.vocabulary = options.vocabulary or (SMALL if options.quick else LARGE)
    if options.peak:
        print_peak(options)
        return
    figures, bench = measure(options, "cpu")
    if torch.cuda.is_available():
        on_cuda, _ = measure(options, "cuda")
        figures |= {f"cuda_{name}": value for name, value in on_cuda.items()}
    failed = []
    known = QUICK_CLAIMS if options.quick else CLAIMS
    for name, value in figures.items():
        claim = ""
        if name in known:
            least, above = known[name]
            claim = f"  claim: {'>=' if above else '<='} {least}"
            if value < least if above else value > least:
                failed.append(name)
                claim += "  FAILED"
        print(f"{name:40}{value:12.4g}{claim}")
    report(
        "dp_step",
        {name: float(f"{value:.5g}") for name, value in figures.items()},
        sizes={
            "vocabulary": options.vocabulary,
            "records": options.batch,
            "coordinates": bench.length,
            "token_budget": bench.packing.token_budget,
            "tokens_per_batch": round(float(np.mean(bench.sizes))),
            "threads": options.threads,
            "repeats": len(bench.batches),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        },
        packages=("torch", "transformers", "peft", "opacus"),
        seeds=(0,),
    )
    if failed:
        sys.exit(f"not held: {', '.join(failed)}")


if __name__ == "__main__":
    main()
