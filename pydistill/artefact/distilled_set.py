"""A distilled set in use: a torch data set that trains networks, evaluates itself and can be looked at."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.utils.data
from torch import Tensor, nn

from pydistill._util.checks import check_path
from pydistill._util.format import counted
from pydistill._util.layout import BEST_NAME, CHECKPOINT_NAME, METRICS_NAME, SET_NAME
from pydistill._util.png import html_sheet
from pydistill._util.progress import in_notebook, is_shown
from pydistill._util.settings import from_dict
from pydistill.artefact.file import Artefact
from pydistill.data import Dataset, Preprocessing
from pydistill.data import load as load_data
from pydistill.errors import FormatError, InputError, MismatchError, SettingError, shown
from pydistill.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate_networks, train_network
from pydistill.nn import ModelSettings, Network, parse
from pydistill.recipes.recipe import Recipe

View = Literal["normalised", "viewable"]
Which = Literal["final", "best"]
RUN_ONLY = (METRICS_NAME, CHECKPOINT_NAME)


class DistilledSet(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """n distilled images with their labels, learning rate, preprocessing and recipe; a data set for PyTorch's loaders.

    `set[i]` is (image [C, H, W], label): a class number, 0-dim int64, or probabilities [K]. There are two views of the
    images: `normalised()`, what networks are trained on (the one that `load` gives), and `viewable()`, pixels in
    [0, 1]. `train` and `evaluate` take the normalised ones whatever the view.

    Args:
        artefact: the set as it lies on disk.
        view: "normalised" or "viewable".
        data: the data set that was distilled, if it is at hand; `evaluate` tests on it.
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
            f"{self.dataset_name}, lr={self.lr:.4g}, {self.view})"
        )

    def _repr_html_(self) -> str:
        """The images, a column per class, above the line of `repr` and the test accuracy, for a notebook."""
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
    def classes(self) -> Tensor:
        """The class that each image stands for, [n] int64."""
        return self.artefact.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the K classes."""
        return self.artefact.class_names

    @property
    def lr(self) -> float:
        """α, the learned learning rate, at which networks are trained on the set."""
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
        """The data set that was distilled."""
        return str(self.provenance["dataset"].get("name") or "unknown data")

    @property
    def recipe(self) -> Recipe:
        """The recipe that the set was distilled by; what is not recorded (of an imported set) has its default.

        Raises:
            InputError: the recipe has settings that this version does not know.
        """
        return from_dict(Recipe, self.provenance.get("recipe", {}), source="the recipe in the distilled set")

    @property
    def student(self) -> ModelSettings:
        """The network that the set was distilled with.

        Raises:
            InputError: it is not recorded, or is a network of its author's own: a file never decides what code runs.
        """
        model = self.provenance.get("recipe", {}).get("model")
        own = [str(self.provenance.get("architecture", "")), "" if model is None else str(self.recipe.model.name)]
        named = next((name for name in own if ":" in name), None)
        if named is not None:
            raise _own_network("distilled", named)
        if model is None:
            raise InputError("the set does not record its student's network; name one")
        return self.recipe.model

    def normalised(self) -> DistilledSet:
        """The view whose images are what networks are trained on."""
        return DistilledSet(self.artefact, "normalised", data=self.data)

    def viewable(self) -> DistilledSet:
        """The view whose images are pixels in [0, 1]."""
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

        With the evaluation's own seed it is, bit for bit on the CPU with the same number of threads, the network that
        the run tested as number `repeat`.

        Args:
            model: a name such as "convnet3" (see `pydistill.nn.parse`), settings, a factory (in_channels, num_classes,
                (H, W)) → module, or a module of your own, which is trained in place from the parameters that it has;
                None: the student's network.
            seed: of the initialisation, the order and the augmentation; None: the evaluation's.
            repeat: number of the network, from 0.
            epochs: None: the evaluation's.

        Returns:
            The network, in training mode.

        Raises:
            InputError: no such network or device, or the network cannot take the images, or model must be given (see
                `student`).
            DivergedError: the training left the finite numbers.
        """
        return train_network(
            self.artefact.images,
            self.labels,
            self.lr,
            model if isinstance(model, nn.Module) else self._network(model),
            self._protocol(seed=seed, epochs=epochs),
            num_classes=len(self.class_names),
            repeat=repeat,
            device=device,
        )

    def evaluate(
        self,
        models: str | Network | Sequence[str | Network] | None = None,
        repeats: int | None = None,
        data: Dataset | str | os.PathLike[str] | None = None,
        *,
        seed: int | None = None,
        epochs: int | None = None,
        device: torch.device | str = "cpu",
        progress: bool | None = None,
        on_evaluation: Callable[[Evaluation], None] | None = None,
    ) -> list[Evaluation]:
        """Train fresh networks on the set and test them on real test images, as the run did.

        Args:
            models: names, settings or factories of networks; None: those of the recipe's evaluation, or the student's.
            repeats, seed, epochs: of the networks of each kind; None: the recipe's.
            data: the data set whose test images are used, or the place where the recorded one lies now; None: the one
                that this set was just made from, else the recorded one, read again. Images that are preprocessed
                otherwise than the set are preprocessed as the set is.
            device: where the recorded data set is read to.
            progress: show a bar; None: on a terminal and in a notebook.
            on_evaluation: called with the evaluation of each kind of network when it is complete.

        Returns:
            One evaluation per network kind.

        Raises:
            InputError: a network or the data do not fit, or model or data must be given.
            MismatchError: the data are not those that the set was distilled from.
        """
        if models is None:
            networks = self._recorded_networks()
        else:
            listed = [models] if isinstance(models, (str, ModelSettings)) or callable(models) else models
            networks = [self._network(model) for model in listed]
            if not networks:
                raise InputError("models must name at least one network, or be left out for the recipe's own")
        return evaluate_networks(
            self.artefact.images,
            self.labels,
            self.lr,
            self._test_data(self.data if data is None else data, device),
            networks,
            self._protocol(seed=seed, epochs=epochs, repeats=repeats),
            progress=is_shown(progress),
            on_evaluation=on_evaluation,
        )

    def judged_by(self, dataset: Dataset) -> Dataset:
        """The data set with its images preprocessed as the set's are, so that its test images judge networks.

        Raises:
            MismatchError: it is not the data set that the set was distilled from.
            InputError: its images have other channels or another size, or it is no data set.
        """
        if not isinstance(dataset, Dataset):
            raise InputError(f"data must be a Dataset or the path of one, not {shown(dataset)}")
        digest = str(self.provenance["dataset"].get("digest", ""))
        if digest not in ("", dataset.digest):
            raise MismatchError(
                f"the set was distilled from {self.dataset_name} with digest {digest[:12]}, and {dataset.name} here "
                f"has {dataset.digest[:12]}; pass the same data"
            )
        if dataset.preprocessing.fingerprint == self.preprocessing.fingerprint:
            return dataset
        return dataset.with_preprocessing(self.preprocessing)

    def show(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A matplotlib figure of the images, a column per class, below those before the first iteration if known.

        In a notebook the picture is displayed, and nothing is returned.

        Args:
            path: a PNG file to draw it into as well, atomically.

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

        A distilled set that is there is replaced, but none of a run's own.

        Raises:
            InputError: the file's name does not end in .safetensors, or something else than a whole distilled set is
                there: a folder, a checkpoint, an expert; or it names the final or the best set of a run.
            WriteError: the folder cannot be written or the disk is full.
        """
        check_file(path)
        self.artefact.save(path)

    def _network(self, model: str | Network | None) -> Network:
        if model is None:
            return self.student
        return parse(model) if isinstance(model, str) else model

    def _recorded_networks(self) -> list[Network]:
        names = self.recipe.evaluation.models
        named = next((name for name in names if ":" in name), None)
        if named is not None:
            raise _own_network("evaluated", named)
        return [parse(name) for name in names] or [self.student]

    def _protocol(self, **changes: int | None) -> EvaluationSettings:
        settings = self.recipe.evaluation
        epochs = changes.pop("epochs")
        if epochs is not None:
            settings = replace(settings, training=replace(settings.training, epochs=epochs))
        return replace(settings, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]

    def _test_data(self, data: Dataset | str | os.PathLike[str] | None, device: torch.device | str) -> Dataset:
        """The data set that networks are tested on, preprocessed as the set is."""
        if data is not None and not isinstance(data, (str, os.PathLike)):
            return self.judged_by(data)
        if "data" not in self.provenance.get("recipe", {}):
            raise InputError("the set does not name the data that it was distilled from; pass data")
        recorded = self.recipe.data
        if data is not None and recorded.name == "digits":
            raise SettingError("data", os.fspath(data), "left out for digits, which come with scikit-learn")
        path = recorded.path if data is None else os.fspath(data)
        if path is None and recorded.name == "tensors":
            raise InputError("the set was distilled from data in memory; pass the data set itself")
        # A file from elsewhere decides neither about downloads nor where a cache is written.
        return self.judged_by(load_data(replace(recorded, path=path, download=False, cache=None), device))


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse where no distilled set can be written, or only over something else.

    Raises:
        InputError: the name does not end in .safetensors, or something else than a whole distilled set is there, or it
            names the final or the best set of a run, there already or not.
    """
    check_path("path", path)
    file = Path(path)
    if file.suffix != ".safetensors" or file.is_dir():
        raise InputError(f"a distilled set is written to a file whose name ends in .safetensors, not to {path}")
    # by what a run alone has: a set of this name may lie in any folder
    if file.name in (SET_NAME, BEST_NAME) and any((file.parent / name).exists() for name in RUN_ONLY):
        raise InputError(f"{path} is a run's own set; choose another file")
    if file.exists():
        try:
            Artefact.load(file)
        except (FormatError, InputError) as error:
            raise InputError(f"{path} is there already and is no whole distilled set; choose another file") from error


def _own_network(how: str, named: str) -> InputError:
    return InputError(
        f"the set was {how} with a network of its author's own, {named}; name one that comes with pydistill"
    )


def load(path: str | os.PathLike[str], *, which: Which = "final") -> DistilledSet:
    """Read a distilled set from its file, or from a run folder; its view is `normalised`.

    Nothing in the file is executed, and its checksums are verified.

    Args:
        path: a .safetensors file, or a run folder.
        which: of a run folder: the set of the last iteration ("final"), or the one of the best evaluation ("best").

    Raises:
        InputError: there is no distilled set at `path`, or it is no path.
        FormatError: the file is damaged, not a distilled set, or of a later format.

    Equivalent to:
        DistilledSet(Artefact.load(path))
    """
    if which not in ("final", "best"):
        raise InputError(f"which must be final or best, not {which!r}")
    check_path("path", path)
    file = Path(path)
    return DistilledSet(Artefact.load(file / (BEST_NAME if which == "best" else SET_NAME) if file.is_dir() else file))
