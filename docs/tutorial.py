# %% [markdown]
# # Pesi-CNN in Python
#
# Open it in an editor that knows `# %%` cells (VS Code, PyCharm, Jupyter by jupytext), or run it as it is:
# `python docs/tutorial.py`. It writes a few files into the working directory, needs no network, and beside the package
# captum (`pip install captum`).

# %%
import os
from pathlib import Path

import numpy as np
import torch
from captum.attr import LayerGradCam
from PIL import Image

import pesi
from pesi.explain.gallery import save_gallery
from pesi.explain.overlay import explanation_png
from pesi.images.transforms import normalise, to_tensor
from pesi.synthetic import draw_lesion

# %% [markdown]
# ## Pictures
#
# Put a folder of dermoscopy images here. So that the tutorial runs anywhere it draws some, and a file that is no image.

# %%
photos = Path("photos")
photos.mkdir(exist_ok=True)
for number, diagnosis in enumerate(["MEL", "NV", "SK", "NV"]):
    drawn = draw_lesion(np.random.default_rng(number), diagnosis)
    Image.fromarray(drawn.image).save(photos / f"{diagnosis.lower()}_{number}.png")
(photos / "notes.jpg").write_text("not a picture")

# %% [markdown]
# ## Load and predict
#
# `load` opens the bundle that comes with the package, one that `pesi bundles` lists, a folder, or one from the hub
# (`hf://OWNER/NAME@REVISION`).

# %%
classifier = pesi.load(device="cpu")
print(classifier)

# %% [markdown]
# One image in, one Prediction out: a path, bytes, an opened file, a Pillow image, an array or a tensor of 8-bit RGB.
# `diagnosis` is None where there is no result, and `no_result` says why: a drawn lesion is not quite a photograph.

# %%
mole = photos / "mel_0.png"
one = classifier.predict(mole)
print(one.diagnosis, one.triage, one.no_result)
print(classifier.predict(np.asarray(Image.open(mole))).probabilities == one.probabilities)

# %% [markdown]
# Many in, a list out, in order; what cannot be read is a Refusal in its place. A notebook shows the list as cards with
# picture, bars, prediction sets, triage and reasons. `to_frame` makes it a table, as `pesi predict` writes it, and
# `save_gallery` one offline page, as its `--gallery` does.

# %%
results = classifier.predict(photos)
frame = results.to_frame()
print(results.summary())
print(frame[["image", "diagnosis", "malignant", "triage", "no_result"]])
save_gallery("gallery.html", results, classifier)

# %% [markdown]
# Without the gates (`gates=False`) every image that can be read has an answer; `stream=True` gives one after the other.

# %%
for result in classifier.predict(photos, gates=False, stream=True):
    print(result)

# %% [markdown]
# ## Explain
#
# The class activation map is exact, since the network ends in a mean and a linear layer. The lesion has a segmenter of
# its own.

# %%
explanation = pesi.explain(mole, classifier, class_name="melanoma")
Path("explained.png").write_bytes(explanation_png(explanation, title=mole.name))
lesion = pesi.segment(mole)
print(f"{explanation.class_name} {explanation.probability:.3f}; the lesion covers {lesion.area:.0%}")

# %% [markdown]
# ## The network, and other libraries
#
# The network is a PyTorch module with the usual names. Its stages are containers: hooks fire, and captum works.

# %%
preprocess, network = classifier.config.preprocess, classifier.network
x = normalise(to_tensor(explanation.image)[None], preprocess.mean, preprocess.std)
target = classifier.config.outputs.index("melanoma")
grad_cam = LayerGradCam(network, network.layer4).attribute(x, target=target)
print("Grad-CAM", tuple(grad_cam.shape))

features = pesi.create_model("pesi_lite0", num_classes=0).eval()  # pretrained=True or a path: weights to begin with
with torch.inference_mode():
    print(pesi.list_models(), tuple(features(x).shape))

# %% [markdown]
# ## Save, share, load back
#
# A bundle is a folder of a config, weights without pickle, and a model card.

# %%
classifier.save_pretrained("my-bundle")
again = pesi.Classifier.from_pretrained("my-bundle", device="cpu")
assert again.predict(mole) == one

# %% [markdown]
# `push_to_hub` publishes it under your account (`hf auth login`). So that nobody publishes by running a tutorial, this
# happens only where PESI_TUTORIAL_REPO names OWNER/NAME.

# %%
if repository := os.environ.get("PESI_TUTORIAL_REPO"):
    print(classifier.push_to_hub(repository, private=True))
    shared = pesi.Classifier.from_pretrained(repository, device="cpu")
    assert shared.predict(photos) == results
    print("equal predictions from the hub; licence:", shared.licence)
