"""`innerq-export run`: text from an engine folder, streamed as it comes."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from innerq_export.cli.output import note, print_json
from innerq_export.cli.params import FOLDER, SIZE, format_option
from innerq_export.errors import ConfigError

MOST_THREADS = max(64, os.cpu_count() or 1)
"""Thousands of threads on a few cores look like a program that hangs."""

if TYPE_CHECKING:
    from innerq_export.runtime import Event, GenerateOptions


@click.command(name="run")
@click.argument("engine", type=FOLDER)
@click.option(
    "--prompt",
    "-p",
    "prompts",
    multiple=True,
    help="Text to continue; repeat for a batch. Default: stdin, on a terminal an example.",
)
@click.option("--max-new-tokens", type=SIZE, default=128, show_default=True, help="Tokens to generate per prompt.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=click.IntRange(min=0), default=0, help="Sample from the k likeliest tokens; 0: all.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Sample from this probability mass."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of sampling.")
@click.option("--stop", multiple=True, help="End a text before this string. Repeatable.")
@click.option("--ignore-eos", is_flag=True, help="Go on past the model's stop tokens.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "onnxruntime", "tensorrt", "tensorrt-rtx", "torch"]),
    default="auto",
    show_default=True,
    help="What runs it; auto: the best of those the folder was built for that this machine has. torch: any folder, "
    "from the checkpoint it was built from, with the CUDA kernels where there is a card.",
)
@click.option(
    "--tp", type=click.IntRange(min=1), default=1, show_default=True, help="torch: split over this many cards."
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    help="torch: of weights and activations.  [default: the engine's]",
)
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", help="torch: where it runs.")
@click.option(
    "--compile", "compiled", is_flag=True, help="torch: compile the layers; seconds first, faster tokens then."
)
@click.option("--threads", type=click.IntRange(0, MOST_THREADS), default=0, help="CPU threads; 0: all cores.")
@click.option("--allow-unready", is_flag=True, help="Run an engine that parity has not passed.")
@format_option
def command(
    engine: Path,
    prompts: tuple[str, ...],
    backend: str,
    tp: int,
    dtype: str | None,
    device: str,
    compiled: bool,
    threads: int,
    allow_unready: bool,
    form: str,
    **choices: Any,
) -> None:
    """Generate text from the engine folder ENGINE with the quantised cache."""
    from innerq_export.runtime import TorchOptions, generate, load_tokenizer, open_session

    if compiled:
        warnings.filterwarnings("ignore", module=r"torch\._inductor")  # they would stand within the streamed text
    options = TorchOptions(dtype=dtype, device=device, tp=tp, compiled=compiled)
    texts = [_text(prompt) for prompt in prompts or [_unasked()]]
    backend = _chosen(engine, allow_unready) if backend == "auto" else backend
    session = open_session(
        engine, backend, batch=len(texts), allow_unready=allow_unready, threads=threads, torch_options=options
    )
    for line in session.manifest.notes:
        note(f"note: {line}")
    with closing(session):
        events = generate(session, load_tokenizer(engine), texts, _options(**choices))
        if form == "json":
            print_json(_collect(events, texts))
        else:
            _stream(events, texts)


def _unasked() -> str:
    """Return what comes on stdin, or on a terminal an example, which is shown."""
    if not _on_a_terminal():
        return sys.stdin.buffer.read().decode("utf-8", errors="surrogateescape")
    from innerq_export.checkpoint.demo import PROMPT

    note(f"no --prompt, so this is continued: {PROMPT}")
    return PROMPT


def _text(prompt: str) -> str:
    """Return the prompt. ConfigError where its bytes were no UTF-8, which Python hands on as lone surrogates."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        got = prompt.encode("utf-8", errors="surrogateescape")[:40]
        raise ConfigError(
            "the prompt is not UTF-8", got=f"bytes {got!r}", fix="convert it: iconv -f YOUR_ENCODING -t UTF-8"
        ) from error
    return prompt


def _on_a_terminal() -> bool:
    return sys.stdin.isatty()


def _chosen(engine: Path, allow_unready: bool) -> str:
    from innerq_export.engine.card import first_card
    from innerq_export.runtime import choose_backend

    backend, refused = choose_backend(engine, allow_unready=allow_unready)
    if backend == "onnxruntime" and (card := first_card()):
        note(f"runs on the CPU; --backend torch would use {card.name}")
    for name, error in refused.items():
        note(f"{name} is passed over for {backend}: {error.got}, expected {error.expected}")
    return backend


def _options(
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stop: tuple[str, ...],
    ignore_eos: bool,
) -> GenerateOptions:
    from innerq_export.runtime import GenerateOptions, SamplingOptions

    if temperature == 0 and (top_k or top_p < 1):
        note("--top-k and --top-p change nothing without --temperature: the likeliest token is taken")
    sampling = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return GenerateOptions(max_new_tokens=max_new_tokens, sampling=sampling, stop=stop, ignore_eos=ignore_eos)


def _stream(events: Iterable[Event], texts: list[str]) -> None:
    """One prompt streams; of several, each text appears whole when its sequence ends."""
    from innerq_export.runtime import EndEvent, TextEvent, Usage

    for event in events:
        if isinstance(event, TextEvent) and len(texts) == 1:
            click.echo(event.text, nl=False)
            sys.stdout.flush()
        elif isinstance(event, EndEvent):
            click.echo("" if len(texts) == 1 else f"[{event.sequence}] {event.text}")
        elif isinstance(event, Usage):
            warm_up = f"warm-up {event.warm_up_seconds:.1f} s; " if event.warm_up_seconds else ""
            note(
                f"{warm_up}prefill {event.prompt_tokens} tokens, {event.prefill_tokens_per_second:.0f} tokens/s; "
                f"decode {event.decode_tokens} tokens, {event.decode_tokens_per_second:.1f} tokens/s; "
                f"KV cache {event.cache_bytes / 1e6:.2f} MB"
            )


def _collect(events: Iterable[Event], texts: list[str]) -> dict[str, Any]:
    from innerq_export.runtime import EndEvent, Usage

    results: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    for event in events:
        if isinstance(event, EndEvent):
            results[event.sequence] = {"prompt": texts[event.sequence]} | asdict(event)
        elif isinstance(event, Usage):
            usage = asdict(event) | {
                "prefill_tokens_per_second": event.prefill_tokens_per_second,
                "decode_tokens_per_second": event.decode_tokens_per_second,
            }
    return {"results": [results[index] for index in sorted(results)], "usage": usage}
