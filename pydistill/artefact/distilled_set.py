"""Distilled sets as torch data sets, which train and evaluate networks and show their images."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.utils.data
from torch import Tensor, nn

from pydistill._util.checks import check_integer, check_path
from pydistill._util.devices import usable_device
from pydistill._util.format import counted
from pydistill._util.layout import BEST_NAME, SET_NAME
from pydistill._util.locking import only_writer
from pydistill._util.png import html_sheet
from pydistill._util.progress import in_notebook, is_shown
from pydistill.artefact.file import Artefact, check_destination
from pydistill.artefact.recorded_data import recorded_data
from pydistill.artefact.storage import Storage
from pydistill.data import Dataset, Preprocessing
from pydistill.errors import InputError, MismatchError, shown
from pydistill.evaluation.evaluate import Evaluation, evaluate_networks
from pydistill.evaluation.protocols import with_protocol
from pydistill.evaluation.settings import EvaluationSettings
from pydistill.nn import ModelSettings, Network, build, name_of, parse
from pydistill.nn.fits import check_fits
from pydistill.recipes.recipe import Recipe, default_recipe, recipe_from_dict
from pydistill.training.train import derive_seed, train

View = Literal["normalised", "viewable"]
Which = Literal["final", "best"]


class DistilledSet(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """A torch data set of n distilled images with their labels, learning rate, preprocessing and recipe.

    `set[i]` is (image [C, H, W], label): a class number, 0-dim int64, or probabilities [K]. The images have two
    views: `normalised()`, on which networks are trained (the view that `load` returns), and `viewable()`, pixels in
    [0, 1]. `train` and `evaluate` use the normalised images in either view.

    Args:
        artefact: the content of the set's file.
        view: "normalised" or "viewable".
        data: the data set that was distilled, if it is in memory; `evaluate` tests on it.
    """

    def __init__(self, artefact: Artefact, view: View = "normalised", *, data: Dataset | None = None) -> None:
        if view not in ("normalised", "viewable"):
            raise InputError(f"view must be normalised or viewable, not {view!r}")
        self.artefact = artefact
        self.view = view
        self.data = data
        self.images: Tensor = artefact.images if view == "normalised" else artefact.viewable()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.images.shape[1:]))
        return (
            f"DistilledSet({counted(len(self), 'image')} {shape} of {len(self.class_names)} classes of "
            f"{self.dataset_name}, {self.storage}, lr={self.lr:.4g}, {self.view})"
        )

    def _repr_html_(self) -> str:
        """Return the images, a column per class, above `repr` and the test accuracy as HTML for a notebook."""
        caption = repr(self)
        accuracy = self.provenance.get("accuracy")
        if isinstance(accuracy, Mapping) and isinstance(accuracy.get("mean"), float):
            caption += f", test accuracy {100 * accuracy['mean']:.1f} %"
        return html_sheet(self.artefact.viewable(), len(self.class_names), caption)

    @property
    def labels(self) -> Tensor:
        """Class numbers [n] int64, or class probabilities [n, K]."""
        return self.artefact.labels

    @property
    def storage(self) -> Storage:
        """The numbers and bytes of the images, or of the codes that they are decoded from, and of the labels."""
        return self.artefact.storage

    @property
    def classes(self) -> Tensor:
        """The class of every image, [n] int64."""
        return self.artefact.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the K classes."""
        return self.artefact.class_names

    @property
    def lr(self) -> float:
        """α, the learned learning rate for training networks on the set."""
        return self.artefact.lr

    @property
    def preprocessing(self) -> Preprocessing:
        """The map from pixels in [0, 1] to normalised images, and its inverse."""
        return self.artefact.preprocessing

    @property
    def provenance(self) -> dict[str, Any]:
        """The origin of the set: recipe, data set and its digest, iteration, accuracies, versions."""
        return self.artefact.provenance

    @property
    def dataset_name(self) -> str:
        """The name of the data set that was distilled."""
        return str(self.provenance["dataset"].get("name") or "unknown data")

    @property
    def recipe(self) -> Recipe:
        """The recipe that produced the set; settings that an imported set does not record have their defaults.

        Raises:
            InputError: the recipe has settings that this version does not have.
        """
        return recipe_from_dict(self.provenance.get("recipe", {}), "the recipe in the distilled set")

    @property
    def student(self) -> ModelSettings:
        """The network that the set was distilled with.

        Raises:
            InputError: the network is not recorded, or is a custom one: a file never chooses code to run.
        """
        model = self.provenance.get("recipe", {}).get("model")
        names = [str(self.provenance.get("architecture", "")), "" if model is None else str(self.recipe.model.name)]
        custom = next((name for name in names if ":" in name), None)
        if custom is not None:
            raise _custom_network("distilled", custom)
        if model is None:
            raise InputError("the set does not record its student's network; pass model")
        return self.recipe.model

    def normalised(self) -> DistilledSet:
        """Return the view of normalised images, on which networks are trained."""
        return DistilledSet(self.artefact, "normalised", data=self.data)

    def viewable(self) -> DistilledSet:
        """Return the view of pixels in [0, 1]."""
        return DistilledSet(self.artefact, "viewable", data=self.data)

    def train(
        self,
        model: str | Network | nn.Module | None = None,
        *,
        seed: int | None = None,
        repeat: int = 0,
        epochs: int | None = None,
        device: torch.device | str = "cpu",
    ) -> nn.Module:
        """Train a network on the set, as the evaluation does.

        With the evaluation's seed this is the network that the run tested as number `repeat`, bit for bit on the CPU
        with the same number of threads.

        Args:
            model: a name such as "convnet3" (see `pydistill.nn.parse`), settings, a factory (in_channels, num_classes,
                (H, W)) → module, or a module, which is trained in place from its current parameters; None: the
                student's network.
            seed: of the initialisation, the order and the augmentation; None: the evaluation's.
            repeat: number of the network, from 0.
            epochs: None: the evaluation's.

        Returns:
            The network, in training mode.

        Raises:
            InputError: the network or device does not exist, the network cannot take the images, or model is missing
                (see `student`).
            DivergedError: the training reached NaN or infinity.
        """
        check_integer("repeat", repeat, 0)
        protocol = self.protocol(seed=seed, epochs=epochs)
        seed = derive_seed("evaluation", protocol.seed, repeat)  # as `evaluate` does
        device = usable_device(device)
        images, labels = (
            values.detach().to(device, torch.float32 if values.is_floating_point() else values.dtype)
            for values in (self.artefact.images, self.labels)
        )
        channels, *plane = images.shape[1:]
        classes = len(self.class_names)
        chosen = model if isinstance(model, nn.Module) else self._network(model)
        network = chosen if isinstance(chosen, nn.Module) else build(chosen, channels, classes, plane, seed=seed)
        network.to(device)
        if not isinstance(chosen, ModelSettings) or ":" in chosen.name:
            name = type(chosen).__name__ if isinstance(chosen, nn.Module) else name_of(chosen)
            check_fits(network, name, channels, classes, plane, images.dtype)
        training = replace(protocol.training, lr=self.lr)
        train(network, images, labels, training, generator=torch.Generator().manual_seed(seed))
        return network

    def evaluate(
        self,
        models: str | Network | Sequence[str | Network] | None = None,
        repeats: int | None = None,
        data: Dataset | str | os.PathLike[str] | None = None,
        *,
        protocol: str | None = None,
        seed: int | None = None,
        epochs: int | None = None,
        device: torch.device | str | None = None,
        progress: bool | None = None,
        on_evaluation: Callable[[Evaluation], None] | None = None,
    ) -> list[Evaluation]:
        """Train fresh networks on the set and test them on real test images, as the run did.

        Args:
            models: names, settings or factories of networks; None: those of the recipe's evaluation, or the student's.
            protocol: a published protocol's name (`PROTOCOLS` of `pydistill.evaluation.protocols`); None: the recipe's.
            repeats, seed, epochs: of the networks of every kind; None: the recipe's, epochs those of `protocol`.
            data: the data set whose test images are used, or the new path of the recorded one; None: `self.data`, or
                else the recorded data set, read again. Images with another preprocessing are converted to the set's.
            device: where to train and test; None: where the data are, or a GPU if they are on the CPU and there is one.
            progress: show a bar; None: on a terminal and in a notebook.
            on_evaluation: called with the evaluation of every kind of network when it is complete.

        Returns:
            One evaluation per network kind.

        Raises:
            InputError: a network or the data do not fit, or models or data are missing.
            MismatchError: the set was not distilled from these data.
        """
        networks = self.networks(models)
        return evaluate_networks(
            self.artefact.images,
            self.labels,
            self.lr,
            self.test_data(data, device),
            networks,
            self.protocol(protocol, seed=seed, epochs=epochs, repeats=repeats),
            progress=is_shown(progress),
            on_evaluation=on_evaluation,
        )

    def preprocess(self, dataset: Dataset) -> Dataset:
        """Return the data set with the set's preprocessing, to test networks trained on the set.

        Raises:
            MismatchError: the set was distilled from another data set.
            InputError: the images have other channels or another size, or `dataset` is not a data set.
        """
        if not isinstance(dataset, Dataset):
            raise InputError(f"data must be a Dataset or the path of one, not {shown(dataset)}")
        digest = str(self.provenance["dataset"].get("digest", ""))
        if digest not in ("", dataset.digest):
            raise MismatchError(
                f"the set was distilled from {self.dataset_name} with digest {digest[:12]}, but {dataset.name} has "
                f"digest {dataset.digest[:12]}; pass the same data"
            )
        if dataset.preprocessing.fingerprint == self.preprocessing.fingerprint:
            return dataset
        return dataset.with_preprocessing(self.preprocessing)

    def show(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Return a matplotlib figure of the images, a column per class, below the initial images if recorded.

        In a notebook, displays the picture and returns None.

        Args:
            path: a PNG file to which the figure is also written, atomically.

        Raises:
            InputError: the file's name does not end in .png.
            MissingDependencyError: matplotlib is not installed.
        """
        from pydistill.artefact.figures import images_figure, save_figure

        if path is not None and Path(path).suffix.lower() != ".png":
            raise InputError(f"a picture is written to a file whose name ends in .png, not to {path}")
        figure = images_figure(self.artefact)
        if path is not None:
            save_figure(figure, Path(path))
        if in_notebook():
            from IPython.display import Image, display

            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=100)
            display(Image(content.getvalue()))
            return None
        return figure

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the set to a .safetensors file, atomically; `load` reads it.

        Replaces another distilled set, except the sets of a run.

        Raises:
            InputError: the file's name does not end in .safetensors, the path exists and is not an intact distilled
                set, or it is that of the final or best set of a run.
            WriteError: the folder cannot be written or the disk is full.
        """
        check_destination(path)
        file, lock = Path(path), f".{Path(path).name}.lock"
        with only_writer(file.parent, name=lock, wait=True, writes=(glob.escape(file.name),)):
            try:
                self.artefact.save(file)
            finally:
                (file.parent / lock).unlink(missing_ok=True)

    def _network(self, model: str | Network | None) -> Network:
        if model is None:
            return self.student
        return parse(model) if isinstance(model, str) else model

    def networks(self, models: str | Network | Sequence[str | Network] | None = None) -> list[Network]:
        """Return the networks to evaluate: those of `evaluate`'s argument, or of the recipe, or the student's.

        Raises:
            InputError: a name does not exist, `models` is empty, or the set records a network of the user's own.
        """
        if models is not None:
            listed = [models] if isinstance(models, (str, ModelSettings)) or callable(models) else models
            if not listed:
                raise InputError("models must name at least one network, or be left out for those of the recipe")
            return [self._network(model) for model in listed]
        names = self.recipe.evaluation.models
        custom = next((name for name in names if ":" in name), None)
        if custom is not None:
            raise _custom_network("evaluated", custom)
        return [parse(name) for name in names] or [self.student]

    def protocol(self, name: str | None = None, **changes: int | None) -> EvaluationSettings:
        """Return the settings of an evaluation: the recipe's, or a published protocol's with the recipe's networks.

        A protocol augments as published, but does not mirror digits, nor augment tables.

        Args:
            name: one of `PROTOCOLS` of `pydistill.evaluation.protocols`; None: the recipe's own.
            changes: epochs, repeats and seed instead of these; None: no change.

        Raises:
            SettingError: there is no such protocol, or a value is outside its limits.
        """
        settings = self.recipe.evaluation
        if name is not None:
            is_table = tuple(self.images.shape[2:]) == (1, 1)
            dsa = None if is_table else default_recipe(self.recipe.data.name).evaluation.training.dsa
            settings = with_protocol(settings, name, dsa)
        epochs = changes.pop("epochs", None)
        if epochs is not None:
            settings = replace(settings, training=replace(settings.training, epochs=epochs))
        return replace(settings, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]

    def test_data(
        self, data: Dataset | str | os.PathLike[str] | None = None, device: torch.device | str | None = None
    ) -> Dataset:
        """Return the data set on which `evaluate` with these arguments tests, with the set's preprocessing."""
        data = self.data if data is None else data
        if data is not None and not isinstance(data, (str, os.PathLike)):
            dataset = self.preprocess(data)
            return dataset.to(usable_device(device, dataset.device))
        if "data" not in self.provenance.get("recipe", {}):
            raise InputError("the set does not record its data set; pass data")
        return self.preprocess(recorded_data(self.recipe.data, data, device))


def _custom_network(action: str, name: str) -> InputError:
    return InputError(
        f"the set was {action} with a network of your own, {name}, which a file must not import; name it again "
        f"(model in Python, --models {name} on the command line), or choose one of pydistill's networks"
    )


def load(path: str | os.PathLike[str], *, which: Which = "final") -> DistilledSet:
    """Read a distilled set from its file or from a run folder, in the normalised view.

    Verifies the checksums and runs no code from the file.

    Args:
        path: a .safetensors file, or a run folder.
        which: for a run folder, the set of the last iteration ("final") or of the best evaluation ("best").

    Raises:
        InputError: `path` has no distilled set, or is not a path.
        FormatError: the file is damaged, not a distilled set, or of another format.

    Equivalent to:
        DistilledSet(Artefact.load(path))
    """
    if which not in ("final", "best"):
        raise InputError(f"which must be final or best, not {which!r}")
    check_path("path", path)
    file = Path(path)
    return DistilledSet(Artefact.load(file / (BEST_NAME if which == "best" else SET_NAME) if file.is_dir() else file))
