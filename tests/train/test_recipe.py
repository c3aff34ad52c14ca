"""Recipes: what ships is valid, overrides work, and each mistake names itself and its cure."""

from __future__ import annotations

import tomllib

import pytest

from pesi.errors import RecipeError
from pesi.train.recipe import Recipe, load_recipe


def test_shipped_recipes():
    recipes = {name: load_recipe(name) for name in Recipe.shipped_names()}
    assert {"paper-pesi14", "paper-pesi50", "pesi50"} <= set(recipes)
    assert all(recipe.name == name for name, recipe in recipes.items())
    # METHOD section 2's protocol.
    for name, rate in (("paper-pesi14", 0.01), ("paper-pesi50", 1e-4)):
        paper = recipes[name]
        assert (paper.optimizer.name, paper.optimizer.lr, paper.optimizer.halve_every) == ("sgd", rate, 30)
        assert (paper.batch_size, paper.epochs, paper.picture.size) == (32, 100, 224)
        assert paper.augmentation.crops == (0.2, 0.4, 0.6, 0.8)
        assert (paper.augmentation.rotation, paper.augmentation.zoom, paper.network.alpha) == (10, 0.1, 1e-3)
        assert paper.patience > 0


def test_toml_round_trip(tmp_path):
    recipe = load_recipe("pesi50", ["seed=7", "network.attend_stages=[3, 4]"])
    path = tmp_path / "mine.toml"
    path.write_text(recipe.to_toml())
    assert load_recipe(path) == recipe
    assert tomllib.loads(recipe.to_toml())["seed"] == 7


def test_overrides():
    recipe = load_recipe("pesi50", ["optimizer.lr=1e-3", "network.attention=sigmoid", "augmentation.flip=false"])
    assert (recipe.optimizer.lr, recipe.network.attention, recipe.augmentation.flip) == (1e-3, "sigmoid", False)


@pytest.mark.parametrize(
    ("override", "problem", "cure"),
    [
        ("optimizer.lrr=1", "unknown key 'optimizer.lrr'", "Did you mean 'lr'"),
        ("epoch=3", "unknown key 'epoch'", "Did you mean 'epochs'"),
        ("epochs=0", "epochs", "Correct"),
        ("epochs=many", "epochs", "Correct"),
        ("network.attention=softmax", "unknown attention 'softmax'", ""),
        ("network.name=resnet50", "unknown network", ""),
        ("network.attend_stages=[5]", "stages 1 to 4", ""),
        ("views=twelve", "unknown views", ""),
        ("epochs", "has no '='", "key=value"),
        ("name.first=x", "is a value, not a section", ""),
    ],
)
def test_mistakes_name_themselves(override, problem, cure):
    with pytest.raises(RecipeError) as caught:
        load_recipe("pesi50", [override])
    assert problem in caught.value.problem
    assert cure in caught.value.cure


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'pesi50'"):
        load_recipe("pesi5")
    with pytest.raises(RecipeError, match="no recipe file"):
        load_recipe(tmp_path / "nothing.toml")
    (tmp_path / "broken.toml").write_text("epochs = = 3")
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(tmp_path / "broken.toml")


def test_auto_precision_is_resolved():
    assert Recipe(name="x").resolved().precision in ("32", "bf16")
    assert Recipe(name="x", precision="32").resolved().precision == "32"


def test_logit_adjustment_is_of_softmax():
    with pytest.raises(RecipeError, match="logit_adjustment"):
        load_recipe("pesi50", ["loss.logit_adjustment=1", "loss.head=multilabel"])


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.attention_mask=1", "network.attention=none"],
        ["loss.attention_mask=1", 'picture.regions=["image", "lesion"]'],
        ["loss.attention_mask=1", "loss.mixup=0.2"],
        ["loss.attention_mask=1", "loss.cutmix=0.2"],
    ],
)
def test_attention_mask_needs_what_it_needs(overrides):
    assert load_recipe("pesi50", overrides[:1]).loss.attention_mask == 1
    with pytest.raises(RecipeError, match="attention_mask"):
        load_recipe("pesi50", overrides)
