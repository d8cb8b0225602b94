"""The packaged base model: what the manifest says, small, and made by its script."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedit_secure.demo.base_model_files import MANIFEST, base_model_path
from fedit_secure.demo.hospital import SPECIALITIES, held_out_records, silo_records
from fedit_secure.demo.public_text import public_texts
from fedit_secure.demo.sizes import DEMO
from fedit_secure.demo.train_base import BaseModelSizes, encode, train_base, versions
from fedit_secure.evaluation.score import score
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.examples import load_template, make_examples
from fedit_secure.tuning.records import Record

FOLDER = base_model_path()
TEMPLATE = load_template("alpaca")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def manifest():
    return json.loads((FOLDER / MANIFEST).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(FOLDER)


def records_of(found):
    return [Record(r.instruction, r.input, r.response, r.category) for r in found]


def public_nll(folder) -> float:
    """NLL of the answers of public texts that training didn't see."""
    sizes = BaseModelSizes()
    unseen = public_texts(sizes.seed, sizes.texts + 400)[sizes.texts :]
    return score(
        load_base_model(folder),
        load_tokenizer(folder),
        [Record(t.instruction, t.input, t.response) for t in unseen if t.instruction],
        TEMPLATE,
        sizes.max_tokens,
    ).nll


def test_files_are_those_of_the_manifest(manifest):
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in FOLDER.iterdir()
        if path.name != MANIFEST
    }
    assert manifest["sha256"] == found
    assert manifest["sizes"] == asdict(BaseModelSizes())


def test_the_model_is_small_and_opens_with_transformers(tokenizer):
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    assert size <= 4 * 2**20
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    assert model.dtype == torch.float16
    assert model.num_parameters() <= 1_600_000
    opened = AutoTokenizer.from_pretrained(FOLDER)
    assert (opened.pad_token, opened.bos_token, opened.eos_token) == (
        "<pad>",
        "<s>",
        "</s>",
    )
    assert opened.convert_tokens_to_ids(["<pad>", "<s>", "</s>"]) == [0, 1, 2]
    assert len(opened) == model.config.vocab_size
    assert opened("bed 12, Mrs Ekström")["input_ids"][0] == 1
    text = "Déjà vu: 40 mg - Mrs Ekström\n→ bed 12"
    assert tokenizer.decode(tokenizer(text)["input_ids"][1:]) == text


def test_every_record_of_the_demo_fits_uncut(tokenizer):
    records = [r for name in SPECIALITIES for r in silo_records(name, 0)]
    examples = make_examples(
        records_of(records + held_out_records(0)), tokenizer, TEMPLATE, max_tokens=512
    )
    assert max(len(e.tokens) for e in examples) <= DEMO.max_tokens


def test_the_base_knows_public_text_and_not_the_hospitals(tokenizer):
    model = load_base_model(FOLDER)
    held_out = score(
        model, tokenizer, records_of(held_out_records(0)), TEMPLATE, DEMO.max_tokens
    )
    assert public_nll(FOLDER) < 1.5
    assert min(held_out.per_category.values()) > 3.0


def test_training_twice_writes_the_same_bytes(tmp_path):
    small = BaseModelSizes(
        texts=192, vocabulary=400, hidden=16, layers=2, heads=2, intermediate=32
    )
    for name in ("first", "second"):
        train_base(tmp_path / name, small)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_passages_are_whole_and_tasks_count_their_answer_only(tokenizer):
    texts = public_texts(0, 200)
    examples = encode(texts, tokenizer, TEMPLATE, 128)
    for text, example in zip(texts, examples, strict=True):
        answer = tokenizer.decode(example.tokens[example.first_label : -1])
        assert answer == text.response
        assert example.tokens[-1] == tokenizer.eos_token_id
        if not text.instruction:
            assert example.first_label == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_retraining_makes_the_packaged_model(manifest, tmp_path):
    train_base(tmp_path)
    if versions() == manifest["versions"]:
        for name, digest in manifest["sha256"].items():
            content = (tmp_path / name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == digest, name
    else:
        # Another torch or processor rounds otherwise: the same model, not the same bits.
        assert np.isclose(public_nll(tmp_path), public_nll(FOLDER), atol=0.1)
